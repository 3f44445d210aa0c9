//! kill -9 under load: no acknowledged message is lost, and messages finished well before a kill are not repeated.

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

/// What the clients have observed in all rounds.
#[derive(Default)]
struct Ledger {
    next_number: u64,
    /// Messages answered with OK; for deferred ones, the time before which they must not arrive.
    acknowledged: BTreeMap<u64, Option<Instant>>,
    /// Times at which nsqd was killed, in order.
    kills: Vec<Instant>,
    channels: HashMap<&'static str, Received>,
}

/// What the consumers of one channel have observed.
#[derive(Default)]
struct Received {
    /// Messages whose FIN nsqd has read, because it answered a later command: the run of nsqd, and when.
    finished: BTreeMap<u64, (usize, Instant)>,
    /// Messages whose FIN was sent. nsqd may have died before it read the FIN.
    finish_sent: BTreeSet<u64>,
    deliveries: u64,
    /// Redeliveries after a FIN that nsqd read too shortly before a kill to commit it.
    repeated: u64,
    /// Messages redelivered although nsqd had time to commit their FIN, with that time.
    lost_fins: Vec<(u64, Option<Duration>)>,
    /// Redeliveries while the FIN was on its way when nsqd died. They are permitted.
    unsettled: u64,
    /// Messages delivered before they were due.
    early: Vec<u64>,
}

impl Received {
    fn finish(&mut self, run_index: usize, numbers: impl IntoIterator<Item = u64>) {
        let now = Instant::now();
        self.finished.extend(numbers.into_iter().map(|number| (number, (run_index, now))));
    }
}

/// A message finished longer than this before a kill must not be redelivered.
const COMMITTED_WITHIN: Duration = Duration::from_millis(100);

type Shared = Arc<Mutex<Ledger>>;

fn with<T>(ledger: &Shared, act: impl FnOnce(&mut Ledger) -> T) -> T {
    act(&mut ledger.lock().expect("the lock is not poisoned"))
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
            // The random delay counts from the first answer, so that every round has some load.
            let has_begun = async || match with(&ledger, |ledger| ledger.acknowledged.len()) {
                count if count > acknowledged_before => Ok(()),
                count => Err(count),
            };
            nsq_tests::wait::until("the load has begun", has_begun).await;
            tokio::time::sleep(Duration::from_micros(random.random_range(0..600_000))).await;
            // Recorded before the kill, so that no later FIN counts as earlier.
            with(&ledger, |ledger| ledger.kills.push(Instant::now()));
            nsqd.kill().await;
            assert!(clients.join_all().await.len() > 4, "all clients ended");
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

/// Starts publishers and consumers that run until nsqd dies.
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

/// Publishes single messages, batches and deferred messages; records which are acknowledged.
async fn publish_until_the_end(address: SocketAddr, ledger: Shared, mut random: SmallRng) {
    // nsqd may die before all clients have connected.
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
    let run_index = with(&ledger, |ledger| ledger.kills.len());
    // nsqd may die before all clients have connected.
    let Ok(mut peer) = Peer::try_connect(address).await else { return };
    peer.send(format!("SUB t {channel}\nRDY {}\n", random.random_range(5..100))).await;
    // FINs that nsqd may not have read yet.
    let mut sent: Vec<u64> = Vec::new();
    loop {
        match peer.frame_within(Duration::from_secs(30)).await {
            // The OK to SUB, then the OKs to the publishes that mark a position in the command stream.
            Ok(Frame::Response(ok)) if ok == "OK" => with(&ledger, |ledger| {
                ledger.channels.entry(channel).or_default().finish(run_index, sent.drain(..));
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
                // Once nsqd answers this mark, it has read everything before it.
                if sent.len() >= 20 {
                    let marked = std::mem::take(&mut sent);
                    peer.send(command("PUB mark#ephemeral", "x")).await;
                    if !wait_for_mark(&mut peer, &ledger, channel, run_index, marked).await {
                        return;
                    }
                }
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => return,
        }
    }
}

/// Waits for the OK of a mark and finishes the messages that arrive meanwhile. Returns false if the connection ends.
async fn wait_for_mark(
    peer: &mut Peer,
    ledger: &Shared,
    channel: &'static str,
    run_index: usize,
    marked: Vec<u64>,
) -> bool {
    loop {
        match peer.frame_within(Duration::from_secs(30)).await {
            Ok(Frame::Response(_)) => {
                with(ledger, |ledger| ledger.channels.entry(channel).or_default().finish(run_index, marked));
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

/// Records a delivery; returns the message's number.
fn received(ledger: &Shared, channel: &'static str, message: &Message) -> u64 {
    let number = message
        .text()
        .split(':')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a body with its number");
    with(ledger, |ledger| {
        let due = ledger.acknowledged.get(&number).copied().flatten();
        let seen = ledger.channels.entry(channel).or_default();
        seen.deliveries += 1;
        if let Some(&(run_index, finished_at)) = seen.finished.get(&number) {
            // Only the kill that ended this run can have lost the FIN. Its last answers may be read after the kill.
            let kill = ledger.kills.get(run_index);
            match kill.map(|kill| kill.saturating_duration_since(finished_at)) {
                Some(before) if before <= COMMITTED_WITHIN => seen.repeated += 1,
                before => seen.lost_fins.push((number, before)),
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

/// Finishes all remaining messages.
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
                    let seen = nsqd.channel("t", channel).await.expect("the channel exists");
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
            // Not println!, which the test runner hides when the test passes.
            let _ = writeln!(
                std::io::stderr(),
                "{rounds} kills, channel {channel}: {} acknowledged, {} lost, {} deliveries, {} finished, {} repeated \
                 whose FIN was read less than {COMMITTED_WITHIN:?} before, {} earlier, {} repeated whose FIN was \
                 on its way",
                ledger.acknowledged.len(),
                lost.len(),
                seen.deliveries,
                seen.finished.len(),
                seen.repeated,
                seen.lost_fins.len(),
                seen.unsettled
            );
            assert!(lost.is_empty(), "{channel}: acknowledged and lost: {lost:?}");
            assert!(seen.finished.len() > rounds * 10, "{channel}: only {} finished", seen.finished.len());
            assert!(
                seen.lost_fins.is_empty(),
                "{channel}: finished and delivered again: {:?}",
                seen.lost_fins
            );
            assert!(seen.early.is_empty(), "{channel}: delivered before they were due: {:?}", seen.early);
        }
    });
}
