//! Owners of one log that start, crash, pause and take over, with a store that refuses requests, loses answers and repeats
//! requests late, and garbage collection. Each run is repeated by its seed.
//!
//! After each step: an epoch has one owner; an acknowledged chunk is in the sealed prefix of its epoch; a sealed prefix never
//! changes; claims and seals are never gone.

use std::collections::{BTreeMap, BTreeSet};

use nsq_storage::journal::Lsn;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{Rng, SeedableRng};

use crate::chain::Listing;
use crate::chunk::{Found, inspect};
use crate::claim::Why;
use crate::envelope::{self, Header, Kind};
use crate::garbage;
use crate::names::{Epoch, LogId, Name, Place};
use crate::ownership::{Answer, Appending, Opener, Opening, Request};
use crate::snapshot::Snapshot;

const LOG: LogId = LogId([3; 16]);
const RUNS: u64 = 4000;
const STEPS: usize = 120;

/// One process. A crash replaces it.
struct Process {
    why: Why,
    nonce: u8,
    state: Doing,
    /// Steps for which it does nothing.
    paused: u32,
}

enum Doing {
    Open(Opening),
    Own {
        epoch: Epoch,
        next: u64,
        appending: Option<Appending>,
        snapshots: Snapshots,
    },
    /// It lost the log.
    Stopped,
}

/// What an owner knows of its snapshots: the newest, and whether a chunk followed.
#[derive(Default)]
struct Snapshots {
    newest: Option<(Place, Snapshot)>,
    is_confirmed: bool,
}

#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Vec<u8>>,
    /// Creates that are repeated later.
    late: Vec<(String, Vec<u8>)>,
}

impl Store {
    fn create(&mut self, key: &str, object: &[u8]) -> Answer {
        if self.objects.contains_key(key) {
            return Answer::Exists;
        }
        self.objects.insert(key.to_owned(), object.to_vec());
        Answer::Created
    }

    fn serve(&mut self, request: &Request, random: &mut SmallRng) -> Answer {
        match request {
            Request::List { prefix } => {
                let mut keys: Vec<String> =
                    self.objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
                keys.shuffle(random);
                Answer::Listed(keys)
            }
            Request::Get { key } => Answer::Got(self.objects.get(key).cloned()),
            Request::Create { key, object } => self.create(key, object),
        }
    }

    /// The number of the last chunk of an epoch, if it is a seal.
    fn seal_of(&self, epoch: Epoch) -> Option<u64> {
        let from = Name::Chunk(Place::new(epoch, 0)).key(LOG);
        let to = Name::Chunk(Place::new(epoch.next(), 0)).key(LOG);
        let mut chunks =
            self.objects.range(from..to).rev().filter_map(|(key, object)| match Name::parse(key) {
                Some((_, Name::Chunk(place))) => Some((place, object)),
                _ => None,
            });
        let (place, object) = chunks.next()?;
        matches!(inspect(object, LOG, place), Found::Seal(..)).then_some(place.number)
    }
}

struct World {
    random: SmallRng,
    store: Store,
    processes: Vec<Process>,
    next_nonce: u8,
    /// Who owns each epoch.
    owners: BTreeMap<Epoch, u8>,
    /// Chunks of which somebody knows that they exist.
    acknowledged: BTreeSet<Place>,
    /// Where epochs are sealed.
    seals: BTreeMap<Epoch, u64>,
    deleted: BTreeSet<Place>,
    points: u64,
    owner_changes: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = World {
            random: SmallRng::seed_from_u64(seed),
            store: Store::default(),
            processes: Vec::new(),
            next_nonce: 1,
            owners: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            seals: BTreeMap::new(),
            deleted: BTreeSet::new(),
            points: 0,
            owner_changes: 0,
        };
        for why in [Why::Start, Why::Takeover, Why::Takeover] {
            let process = world.new_process(why);
            world.processes.push(process);
        }
        // The takers come once there is something to take.
        world.processes[1].paused = world.random.random_range(0..60);
        world.processes[2].paused = world.random.random_range(0..60);
        world
    }

    fn new_process(&mut self, why: Why) -> Process {
        let nonce = self.next_nonce;
        self.next_nonce = self.next_nonce.wrapping_add(1);
        let opener = Opener {
            log: LOG,
            owner: format!("process {nonce}"),
            address: String::new(),
            why,
            nonce: [nonce; 16],
            now: 0,
        };
        Process { why, nonce, state: Doing::Open(Opening::new(opener)), paused: 0 }
    }

    fn step(&mut self) {
        self.points += 1;
        if !self.store.late.is_empty() && self.random.random_bool(0.2) {
            let at = self.random.random_range(0..self.store.late.len());
            let (key, object) = self.store.late.swap_remove(at);
            self.store.create(&key, &object);
        }
        let who = self.random.random_range(0..self.processes.len());
        match self.random.random_range(0..100) {
            0..3 => {
                let why = self.processes[who].why;
                self.processes[who] = self.new_process(why);
            }
            3..6 => self.processes[who].paused = self.random.random_range(1..40),
            _ => self.let_work(who),
        }
        self.check();
    }

    fn let_work(&mut self, who: usize) {
        if self.processes[who].paused > 0 {
            self.processes[who].paused -= 1;
            return;
        }
        let nonce = self.processes[who].nonce;
        let mut state = std::mem::replace(&mut self.processes[who].state, Doing::Stopped);
        match &mut state {
            Doing::Open(opening) => {
                if let Some(request) = opening.request()
                    && let Some(answer) = self.ask(&request)
                {
                    opening.answer(answer);
                }
                match opening.outcome() {
                    Some(Ok(owned)) => {
                        let before = self.owners.insert(owned.epoch, nonce);
                        assert!(
                            before.is_none_or(|before| before == nonce),
                            "epoch {} has two owners",
                            owned.epoch
                        );
                        self.owner_changes += 1;
                        state = Doing::Own {
                            epoch: owned.epoch,
                            next: 0,
                            appending: None,
                            snapshots: Snapshots::default(),
                        };
                    }
                    Some(Err(_)) => state = Doing::Stopped,
                    None => {}
                }
            }
            Doing::Own { epoch, next, appending, snapshots } => {
                if self.own(nonce, *epoch, next, appending, snapshots) {
                    state = Doing::Stopped;
                }
            }
            Doing::Stopped => {}
        }
        self.processes[who].state = state;
    }

    /// Returns whether the log was lost.
    fn own(
        &mut self,
        nonce: u8,
        epoch: Epoch,
        next: &mut u64,
        appending: &mut Option<Appending>,
        snapshots: &mut Snapshots,
    ) -> bool {
        let Some(current) = appending else {
            match self.random.random_range(0..10) {
                0 if *next > 0 => self.write_snapshot(Place::new(epoch, *next - 1), snapshots),
                1 => self.collect_garbage(snapshots),
                _ => *appending = Some(self.new_chunk(Place::new(epoch, *next), nonce)),
            }
            return false;
        };
        if let Some(request) = current.request()
            && let Some(answer) = self.ask(&request)
        {
            current.answer(answer);
        }
        match current.outcome() {
            Some(Ok(())) => {
                self.acknowledged.insert(Place::new(epoch, *next));
                snapshots.is_confirmed = snapshots.newest.is_some();
                *next += 1;
                *appending = None;
                false
            }
            Some(Err(_)) => true,
            None => false,
        }
    }

    fn new_chunk(&mut self, place: Place, owner: u8) -> Appending {
        let mut nonce = [owner; 16];
        nonce[0] = self.random.random();
        nonce[1] = self.random.random();
        let header =
            Header { kind: Kind::Chunk, log: LOG, place, from: Lsn(0), to: Lsn(1), nonce, made_at: 0 };
        Appending::new(LOG, place, nonce, envelope::encode(&header, b"records"))
    }

    fn write_snapshot(&mut self, place: Place, snapshots: &mut Snapshots) {
        let snapshot = Snapshot { first_chunk: place, from: Lsn(0), to: Lsn(0), files: Vec::new() };
        let object = snapshot.object(LOG, place, [0; 16], 0);
        self.store.create(&Name::Snapshot(place).key(LOG), &object);
        *snapshots = Snapshots { newest: Some((place, snapshot)), is_confirmed: false };
    }

    fn collect_garbage(&mut self, snapshots: &Snapshots) {
        let Snapshots { newest: Some(newest), is_confirmed: true } = snapshots else { return };
        let listing = Listing::of(self.store.objects.keys().map(String::as_str), LOG);
        for name in garbage::unneeded(&listing, std::slice::from_ref(newest), Place::default()) {
            if let Name::Chunk(place) = name {
                self.deleted.insert(place);
            }
            self.store.objects.remove(&name.key(LOG));
        }
    }

    /// `None` if the answer is lost or the request is refused.
    fn ask(&mut self, request: &Request) -> Option<Answer> {
        match self.random.random_range(0..100) {
            0..10 => None,
            10..20 => {
                self.store.serve(request, &mut self.random);
                None
            }
            20..30 => {
                if let Request::Create { key, object } = request {
                    self.store.late.push((key.clone(), object.clone()));
                }
                Some(self.store.serve(request, &mut self.random))
            }
            _ => Some(self.store.serve(request, &mut self.random)),
        }
    }

    fn check(&mut self) {
        for &epoch in self.owners.keys() {
            assert!(self.store.objects.contains_key(&Name::Claim(epoch).key(LOG)), "claim {epoch} is gone");
            let newer_owner = self.owners.range(epoch.next()..).next();
            let seal = self.store.seal_of(epoch);
            assert!(newer_owner.is_none() || seal.is_some(), "epoch {epoch} has a successor and no seal");
            let Some(seal) = seal else {
                assert!(!self.seals.contains_key(&epoch), "the seal of epoch {epoch} is gone");
                continue;
            };
            let before = *self.seals.entry(epoch).or_insert(seal);
            assert_eq!(before, seal, "the prefix of epoch {epoch} changed");
            let acknowledged = self.acknowledged.range(Place::new(epoch, 0)..Place::new(epoch.next(), 0));
            for place in acknowledged {
                assert!(place.number < seal, "chunk {place} was acknowledged behind the seal {seal}");
                let exists = self.store.objects.contains_key(&Name::Chunk(*place).key(LOG));
                assert!(exists || self.deleted.contains(place), "chunk {place} is gone");
            }
        }
    }
}

/// `NSQ_SIMULATION_PERCENT` asks for more.
fn runs() -> u64 {
    let percent = std::env::var("NSQ_SIMULATION_PERCENT").ok().and_then(|percent| percent.parse().ok());
    RUNS * percent.unwrap_or(100) / 100
}

#[test]
fn a_log_has_one_owner_at_every_moment() {
    let (mut points, mut owner_changes, mut chunks, mut deleted) = (0, 0, 0, 0);
    for seed in 0..runs() {
        let mut world = World::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                world.step();
            }
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
        points += world.points;
        owner_changes += world.owner_changes;
        chunks += world.acknowledged.len();
        deleted += world.deleted.len();
    }
    // Otherwise the runs would show nothing.
    assert!(points >= 100_000, "{points} points");
    assert!(
        owner_changes > runs() && chunks as u64 > 5 * runs() && deleted > 1000,
        "{owner_changes} {chunks} {deleted}"
    );
}
