use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nsq::{Consumer, DeadLetter, Delivery, HandlerError, NewMessage, Producer};
use nsq_tests::{Daemon, test_within, wait};
use parking_lot::Mutex;

/// How many times nsqd is killed in [`every_message_counts_once_through_kills_of_nsqd_and_nsqlookupd`], such as 50. nsqlookupd
/// is killed in every second round.
const ROUNDS: &str = "NSQ_TESTS_CLIENT_KILLS";
/// Messages that are sent in each round.
const PER_ROUND: usize = 400;
/// One of so many messages cannot be handled.
const ONE_DEAD_OF: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// How often each message was handled, by its number, and the numbers in the order of the ids that nsqd gave.
#[derive(Default)]
struct Ledger {
    handled: BTreeMap<usize, u32>,
    by_id: BTreeMap<u64, usize>,
}

async fn charge(ledger: Arc<Mutex<Ledger>>, order: Delivery) -> Result<(), HandlerError> {
    let number: usize = order.json()?;
    ledger.lock().by_id.insert(order.id().to_u64().expect("an id of this nsqd"), number);
    if number.is_multiple_of(ONE_DEAD_OF) {
        return Err(HandlerError::permanent("no such customer"));
    }
    *ledger.lock().handled.entry(number).or_default() += 1;
    Ok(())
}

#[test]
fn every_message_counts_once_through_kills_of_nsqd_and_nsqlookupd() {
    let rounds: usize = std::env::var(ROUNDS).map_or(4, |text| text.parse().expect("a number"));
    test_within(PATIENCE * (4 + rounds as u32), async move {
        let mut lookupd = Daemon::lookupd().start().await;
        let mut nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        for (topic, channel) in [("orders", "billing"), ("orders.dead", "archive")] {
            nsqd.admin(&format!("/topic/create?topic={topic}")).await;
            nsqd.admin(&format!("/channel/create?topic={topic}&channel={channel}")).await;
            nsqd.admin(&format!("/topic/set?topic={topic}&dedupe=1h")).await;
        }
        let producer = Producer::builder()
            .nsqd(nsqd.tcp().to_string())
            .ordered(true)
            .linger(Duration::from_millis(2))
            .publish_timeout(PATIENCE)
            .build()
            .expect("valid settings");
        let orders = producer.topic("orders").expect("a valid name");
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let consumer = Consumer::builder("orders", "billing")
            .lookupd(lookupd.http().to_string())
            .set("lookupd_poll_interval", "500ms")
            // Connections that last for a few seconds only are reopened more and more slowly.
            .and_then(|builder| builder.set("reconnect_max", "500ms"))
            .expect("options")
            .concurrency(4)
            .max_in_flight(100)
            .remember_finished(1_000_000)
            .dead_letter(DeadLetter::Topic(producer.topic("orders.dead").expect("a valid name")))
            .handler_with(Arc::clone(&ledger), charge)
            .start()
            .expect("valid settings");

        let mut receipts = Vec::new();
        for round in 0..rounds {
            let (before, seen) = (receipts.len(), ledger.lock().by_id.len());
            for number in before..before + PER_ROUND {
                let order = NewMessage::json(&number).expect("a number").id(format!("order-{number}"));
                receipts.push(orders.enqueue(order).await.expect("there is room"));
            }
            // Kill in the middle: some are handled, others are under way.
            wait::until_within(PATIENCE, "some messages of this round", async || {
                wait::when(ledger.lock().by_id.len(), |count| *count > seen + PER_ROUND / 8)
            })
            .await;
            nsqd.kill().await;
            if round % 2 == 1 {
                lookupd.kill().await;
                lookupd.restart().await;
            }
            nsqd.restart().await;
        }
        let sent = receipts.len();
        for receipt in receipts {
            receipt.await.expect("published, however often nsqd was killed");
        }
        let dead = sent.div_ceil(ONE_DEAD_OF);
        nsqd.channel_until("orders", "billing", "everything is finished", |channel| {
            channel.depth == 0 && channel.in_flight_count == 0 && channel.deferred_count == 0
        })
        .await;

        let letters = nsqd.channel("orders.dead", "archive").await.expect("it exists");
        assert_eq!(letters.depth, dead as u64, "each dead letter is there once");
        {
            let ledger = ledger.lock();
            assert_eq!(ledger.handled.len(), sent - dead, "no message is lost");
            let repeated: Vec<_> = ledger.handled.iter().filter(|(_, count)| **count != 1).collect();
            assert!(repeated.is_empty(), "no message is handled twice: {repeated:?}");
            assert_eq!(ledger.by_id.len(), sent, "nsqd has each message once");
            assert!(ledger.by_id.values().is_sorted(), "nsqd has the messages in the order of the calls");
        }
        consumer.shutdown(PATIENCE).await;
        assert!(producer.close(PATIENCE).await);
    });
}
