//! kill -9 under load: what was acknowledged is never lost, and what was finished a moment before is not repeated.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nsq_tests::wire::{Frame, Message, batch, command};
use nsq_tests::{Daemon, Peer, test_within};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

const CHANNELS: [&str; 2] = ["one", "two"];
const PUBLISHERS: u64 = 3;
const CONSUMERS_PER_CHANNEL: u64 = 2;

/// What the clients of all rounds know.
#[derive(Default)]
struct Ledger {
    next_number: u64,
    /// Answered with OK, with the moment before which a deferred one must not come.
    acknowledged: BTreeMap<u64, Option<Instant>>,
    /// When nsqd was killed, in order.
    kills: Vec<Instant>,
    channels: HashMap<&'static str, Received>,
}

/// What the consumers of one channel know.
#[derive(Default)]
struct Received {
    /// A FIN was sent and a later command was answered, in that life of nsqd and at that moment: nsqd has read it.
    finished: BTreeMap<u64, (usize, Instant)>,
    /// A FIN was sent; nsqd may have died before it read it.
    finish_sent: BTreeSet<u64>,
    deliveries: u64,
    /// Delivered although nsqd had read its FIN, which came too shortly before a kill to be in the journal.
    repeated: u64,
    /// Delivered although nsqd had read its FIN and had time to remember it: with that time.
    forgotten: Vec<(u64, Option<Duration>)>,
    /// Delivered again although a FIN was on its way when nsqd died: nobody's fault.
    unsettled: u64,
    /// Delivered before its time.
    early: Vec<u64>,
}

impl Received {
    fn finish(&mut self, life: usize, numbers: impl IntoIterator<Item = u64>) {
        let now = Instant::now();
        self.finished.extend(numbers.into_iter().map(|number| (number, (life, now))));
    }
}

/// What was finished so long before a kill must not come again.
const REMEMBERED_WITHIN: Duration = Duration::from_millis(100);

type Shared = Arc<Mutex<Ledger>>;

fn with<T>(ledger: &Shared, act: impl FnOnce(&mut Ledger) -> T) -> T {
    act(&mut ledger.lock().expect("nobody panics with this lock"))
}

fn rounds() -> usize {
    match std::env::var("NSQ_CRASH_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("NSQ_CRASH_ROUNDS is a number"),
        Err(_) => 8,
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_nsqd_is_killed_under_load() {
    killed_under_load(&[], rounds());
}

#[test]
fn nothing_acknowledged_is_lost_when_most_of_it_is_on_disk() {
    killed_under_load(&["--mem-queue-size=10"], rounds().div_ceil(2));
}

fn killed_under_load(flags: &'static [&'static str], rounds: usize) {
    test_within(Duration::from_secs(60 + 15 * rounds as u64), async move {
        let seed = rand::random();
        eprintln!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let start = flags.iter().fold(Daemon::nsqd(), |start, flag| start.flag(*flag));
        let mut nsqd = start.start().await;
        for channel in CHANNELS {
            nsqd.subscribe("t", channel).await;
        }
        let ledger = Shared::default();
        for round in 0..rounds {
            let acknowledged_before = with(&ledger, |ledger| ledger.acknowledged.len());
            let clients = load(nsqd.tcp(), &ledger, &mut random);
            // The moment is counted from the first answer, so that a round is never over before it began.
            let begun = async || match with(&ledger, |ledger| ledger.acknowledged.len()) {
                count if count > acknowledged_before => Ok(()),
                count => Err(count),
            };
            nsq_tests::wait::until("the load has begun", begun).await;
            tokio::time::sleep(Duration::from_micros(random.random_range(0..600_000))).await;
            // Before it happens: nothing that comes later counts.
            with(&ledger, |ledger| ledger.kills.push(Instant::now()));
            nsqd.kill().await;
            assert!(clients.join_all().await.len() > 4, "all clients noticed");
            let restarting = Instant::now();
            nsqd.restart().await;
            let (acknowledged, finished) = with(&ledger, |ledger| {
                (
                    ledger.acknowledged.len(),
                    ledger.channels.values().map(|seen| seen.finished.len()).sum::<usize>(),
                )
            });
            eprintln!(
                "round {round}: {acknowledged} acknowledged, {finished} finished so far; started in {:?}",
                restarting.elapsed()
            );
        }
        drain(&nsqd, &ledger).await;
        report(&ledger, rounds);
    });
}

/// Publishers and consumers that go on until nsqd is gone.
fn load(address: SocketAddr, ledger: &Shared, random: &mut SmallRng) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..PUBLISHERS {
        clients.spawn(publish_until_the_end(address, ledger.clone(), SmallRng::from_rng(random)));
    }
    for channel in CHANNELS {
        for _ in 0..CONSUMERS_PER_CHANNEL {
            clients.spawn(consume_until_the_end(
                address,
                channel,
                ledger.clone(),
                SmallRng::from_rng(random),
            ));
        }
    }
    clients
}

/// Publishes single messages, batches and deferred messages; notes what is acknowledged.
async fn publish_until_the_end(address: SocketAddr, ledger: Shared, mut random: SmallRng) {
    // nsqd may be gone before everybody has connected.
    let Ok(mut peer) = Peer::try_connect(address).await else { return };
    loop {
        let count = if random.random_bool(0.3) { random.random_range(2..20) } else { 1 };
        let first = with(&ledger, |ledger| {
            ledger.next_number += count;
            ledger.next_number - count
        });
        let bodies: Vec<Vec<u8>> = (first..first + count)
            .map(|number| format!("{number}:{:x<1$}", "", random.random_range(1..400)).into_bytes())
            .collect();
        let mut due = None;
        let bytes = if count > 1 {
            command("MPUB t", batch(&bodies))
        } else if random.random_bool(0.2) {
            let delay = random.random_range(1..1500);
            due = Some(Instant::now() + Duration::from_millis(delay));
            command(format!("DPUB t {delay}"), &bodies[0])
        } else {
            command("PUB t", &bodies[0])
        };
        peer.send(bytes).await;
        match peer.frame_within(Duration::from_secs(30)).await {
            Ok(Frame::Response(ok)) if ok == "OK" => with(&ledger, |ledger| {
                ledger.acknowledged.extend((first..first + count).map(|number| (number, due)));
            }),
            Ok(other) => panic!("{other:?}"),
            Err(_) => return,
        }
    }
}

/// Finishes most messages, requeues some with and without delay, touches some, keeps some until the end.
async fn consume_until_the_end(
    address: SocketAddr,
    channel: &'static str,
    ledger: Shared,
    mut random: SmallRng,
) {
    let life = with(&ledger, |ledger| ledger.kills.len());
    // nsqd may be gone before everybody has connected.
    let Ok(mut peer) = Peer::try_connect(address).await else { return };
    peer.send(format!("SUB t {channel}\nRDY {}\n", random.random_range(5..100))).await;
    // FINs that nsqd may not have read yet.
    let mut sent: Vec<u64> = Vec::new();
    loop {
        match peer.frame_within(Duration::from_secs(30)).await {
            // OK to SUB, then to the publishes that are used as marks in the stream of commands.
            Ok(Frame::Response(ok)) if ok == "OK" => with(&ledger, |ledger| {
                ledger.channels.entry(channel).or_default().finish(life, sent.drain(..));
            }),
            Ok(Frame::Message(message)) => {
                let number = received(&ledger, channel, &message);
                match random.random_range(0..100) {
                    0..80 => {
                        with(&ledger, |ledger| {
                            ledger.channels.entry(channel).or_default().finish_sent.insert(number);
                        });
                        sent.push(number);
                        peer.finish(&message).await;
                    }
                    80..86 => peer.requeue(&message, Duration::ZERO).await,
                    86..94 => {
                        peer.requeue(&message, Duration::from_millis(random.random_range(1..800))).await
                    }
                    94..97 => peer.touch(&message).await,
                    _ => {}
                }
                // A mark: once it is answered, nsqd has read everything before it.
                if sent.len() >= 20 {
                    let marked = std::mem::take(&mut sent);
                    peer.send(command("PUB mark#ephemeral", "x")).await;
                    if !settle(&mut peer, &ledger, channel, life, marked).await {
                        return;
                    }
                }
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => return,
        }
    }
}

/// Waits for the OK of a mark; messages that come meanwhile stay in flight. False at the end.
async fn settle(
    peer: &mut Peer,
    ledger: &Shared,
    channel: &'static str,
    life: usize,
    marked: Vec<u64>,
) -> bool {
    loop {
        match peer.frame_within(Duration::from_secs(30)).await {
            Ok(Frame::Response(_)) => {
                with(ledger, |ledger| ledger.channels.entry(channel).or_default().finish(life, marked));
                return true;
            }
            Ok(Frame::Message(message)) => {
                let number = received(ledger, channel, &message);
                with(ledger, |ledger| {
                    ledger.channels.entry(channel).or_default().finish_sent.insert(number);
                });
                peer.finish(&message).await;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => return false,
        }
    }
}

/// Notes a delivery; the message's number.
fn received(ledger: &Shared, channel: &'static str, message: &Message) -> u64 {
    let number =
        message.text().split(':').next().and_then(|number| number.parse().ok()).expect("our own body");
    with(ledger, |ledger| {
        let due = ledger.acknowledged.get(&number).copied().flatten();
        let seen = ledger.channels.entry(channel).or_default();
        seen.deliveries += 1;
        if let Some(&(life, finished_at)) = seen.finished.get(&number) {
            // Only the kill that ended this life can have made nsqd forget it. Its last answers may be read afterwards.
            let kill = ledger.kills.get(life);
            match kill.map(|kill| kill.saturating_duration_since(finished_at)) {
                Some(before) if before <= REMEMBERED_WITHIN => seen.repeated += 1,
                before => seen.forgotten.push((number, before)),
            }
        } else if seen.finish_sent.contains(&number) {
            seen.unsettled += 1;
        }
        if due.is_some_and(|due| Instant::now() + Duration::from_millis(20) < due) {
            seen.early.push(number);
        }
    });
    number
}

/// Finishes everything that is left.
async fn drain(nsqd: &Daemon, ledger: &Shared) {
    for channel in CHANNELS {
        let mut consumer = nsqd.subscribe("t", channel).await;
        consumer.ready(2500).await;
        loop {
            match consumer.frame_within(Duration::from_millis(200)).await {
                Ok(Frame::Message(message)) => {
                    let number = received(ledger, channel, &message);
                    with(ledger, |ledger| {
                        ledger.channels.entry(channel).or_default().finish_sent.insert(number);
                    });
                    consumer.finish(&message).await;
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => {
                    let seen = nsqd.channel("t", channel).await.expect("the channel is there");
                    if seen.unfinished() == 0 {
                        break;
                    }
                }
            }
        }
    }
}

fn report(ledger: &Shared, rounds: usize) {
    with(ledger, |ledger| {
        assert!(ledger.acknowledged.len() > rounds * 20, "only {} acknowledged", ledger.acknowledged.len());
        for (channel, seen) in &ledger.channels {
            let lost: Vec<&u64> =
                ledger.acknowledged.keys().filter(|number| !seen.finish_sent.contains(number)).collect();
            // Not println!, which the test runner keeps to itself when all is well.
            let _ = writeln!(
                std::io::stderr(),
                "{rounds} kills, channel {channel}: {} acknowledged, {} lost, {} deliveries, {} finished, {} repeated \
                 whose FIN was read less than {REMEMBERED_WITHIN:?} before, {} earlier, {} repeated whose FIN was \
                 on its way",
                ledger.acknowledged.len(),
                lost.len(),
                seen.deliveries,
                seen.finished.len(),
                seen.repeated,
                seen.forgotten.len(),
                seen.unsettled
            );
            assert!(lost.is_empty(), "{channel}: acknowledged and lost: {lost:?}");
            assert!(seen.finished.len() > rounds * 10, "{channel}: only {} finished", seen.finished.len());
            assert!(
                seen.forgotten.is_empty(),
                "{channel}: finished and delivered again: {:?}",
                seen.forgotten
            );
            assert!(seen.early.is_empty(), "{channel}: delivered before they were due: {:?}", seen.early);
        }
    });
}
