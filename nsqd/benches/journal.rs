//! Cost of a publish in the journal: appends and commits records of single messages and of batches.
//! `cargo bench -p nsqd --bench journal`

use std::sync::Arc;
use std::time::Instant;

use nsqd::storage::file::FileStorage;
use nsqd::storage::journal::{Journal, JournalOptions};
use nsqd::storage::record::Record;
use nsqd::storage::{Durability, TopicNumber};

const RECORDS: u32 = 500_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for batch in [1, 10, 100] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = JournalOptions::new(dir.path(), Durability::Write);
        let (journal, _) =
            Journal::open(Arc::new(FileStorage), options, &mut |_, _| {}).expect("an empty journal");
        let frames = vec![7; 234 * batch as usize];
        let started = Instant::now();
        for first in (0..RECORDS).step_by(batch as usize) {
            let record = Record::Publish {
                topic: TopicNumber(1),
                first_sequence: u64::from(first),
                count: batch,
                due_ns: None,
                only: None,
                frames: &frames,
            };
            let ticket = journal.append(&record).expect("the journal accepts");
            runtime.block_on(journal.commit(ticket)).expect("the write succeeds");
            retire(&journal);
        }
        let each = started.elapsed() / RECORDS;
        println!("append and commit, {batch:>3} messages of 200 bytes at a time: {each:?} per message");
    }
}

/// Retires files like a daemon whose consumers keep up.
fn retire(journal: &Journal) {
    let files = journal.files();
    if files.len() > 2 {
        journal.retire_oldest(files[0].number).expect("the oldest file is retired");
    }
}
