use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const IDLE: Duration = Duration::from_secs(1);

fn options() -> RdyOptions {
    RdyOptions { idle_timeout: IDLE, slice: IDLE, fair_share: false }
}

/// Connections as servers see them, driven by plans.
struct World {
    distributor: Distributor,
    now: Instant,
    max_in_flight: u64,
    servers: BTreeMap<ConnectionId, Server>,
    next_id: u64,
    plan: Plan,
}

#[derive(Clone, Debug)]
struct Server {
    cap: u64,
    rdy: u64,
    in_flight: u64,
    last_message_at: Option<Instant>,
}

impl World {
    fn new(max_in_flight: u64) -> Self {
        World {
            distributor: Distributor::new(options(), max_in_flight),
            now: Instant::now(),
            max_in_flight,
            servers: BTreeMap::new(),
            next_id: 0,
            plan: Plan::default(),
        }
    }

    fn connect(&mut self, cap: u64) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.servers.insert(id, Server { cap, rdy: 0, in_flight: 0, last_message_at: None });
        self.distributor.connected(id, cap, self.now);
        id
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.servers.remove(&id);
        self.distributor.disconnected(id);
    }

    /// Delivers one message if RDY allows it.
    fn deliver(&mut self, id: ConnectionId) -> bool {
        let now = self.now;
        match self.servers.get_mut(&id) {
            Some(server) if server.in_flight < server.rdy => {
                server.in_flight += 1;
                server.last_message_at = Some(now);
                true
            }
            _ => false,
        }
    }

    fn load(&self) -> u64 {
        self.servers.values().map(|s| s.rdy.max(s.in_flight)).sum()
    }

    fn rdys(&self) -> Vec<u64> {
        self.servers.values().map(|s| s.rdy).collect()
    }

    /// Plans, applies the plan, and checks the invariants.
    fn plan(&mut self, mode: Mode) {
        for (id, server) in &self.servers {
            self.distributor.observe(*id, server.in_flight, server.last_message_at);
        }
        let loads: BTreeMap<_, _> =
            self.servers.iter().map(|(id, s)| (*id, s.rdy.max(s.in_flight))).collect();
        self.plan = self.distributor.plan(mode, self.now);
        let mut raising = false;
        let mut seen = BTreeSet::new();
        for (id, rdy) in &self.plan.changes {
            let server = self.servers.get_mut(id).expect("changes are for open connections");
            assert_ne!(server.rdy, *rdy, "unchanged value sent");
            assert!(*rdy <= server.cap, "above the server's limit");
            assert!(seen.insert(*id), "two changes for one connection");
            let raises = *rdy > server.rdy;
            assert!(raises || !raising, "a lowering change after a raising one");
            raising = raises;
            server.rdy = *rdy;
        }
        if self.load() > self.max_in_flight {
            for (id, server) in &self.servers {
                assert!(server.rdy.max(server.in_flight) <= loads[id], "raised although there is no room");
            }
        }
        let rdy_sum: u64 = self.servers.values().map(|s| s.rdy).sum();
        match mode {
            Mode::Hold => assert_eq!(rdy_sum, 0),
            Mode::Probe => assert!(rdy_sum <= 1),
            Mode::Open => assert!(rdy_sum <= self.max_in_flight),
        }
        if let Some(at) = self.plan.wake_at {
            assert!(at > self.now, "the wake time is in the past");
        }
    }

    /// Advances the time, and plans whenever a plan requests it.
    fn pass(&mut self, time: Duration, mode: Mode) {
        let until = self.now + time;
        while let Some(at) = self.plan.wake_at.filter(|at| *at <= until) {
            self.now = at;
            self.plan(mode);
        }
        self.now = until;
        self.plan(mode);
    }
}

#[test]
fn single_connection_gets_everything_up_to_the_servers_limit() {
    let mut world = World::new(200);
    world.connect(2500);
    world.plan(Mode::Open);
    assert_eq!(world.rdys(), [200]);
    world.max_in_flight = 5000;
    world.distributor.set_max_in_flight(5000);
    world.pass(IDLE, Mode::Open);
    assert_eq!(world.rdys(), [2500]);
}

#[test]
fn shares_include_the_remainder() {
    let mut world = World::new(200);
    for _ in 0..3 {
        world.connect(2500);
    }
    world.plan(Mode::Open);
    assert_eq!(world.rdys(), [67, 67, 66]);
}

#[test]
fn capped_connection_leaves_the_rest_to_the_others() {
    let mut world = World::new(100);
    world.connect(10);
    world.connect(2500);
    world.connect(2500);
    world.plan(Mode::Open);
    assert_eq!(world.rdys(), [10, 45, 45]);
}

#[test]
fn new_connection_waits_until_there_is_room() {
    let mut world = World::new(10);
    let first = world.connect(100);
    world.plan(Mode::Open);
    while world.deliver(first) {}
    let second = world.connect(100);
    world.plan(Mode::Open);
    assert_eq!(world.rdys(), [5, 0], "ten are in flight already");
    assert!(world.plan.watch_answers);
    world.servers.get_mut(&first).unwrap().in_flight = 7;
    world.plan(Mode::Open);
    assert_eq!(world.servers[&second].rdy, 3);
}

#[test]
fn idle_connections_lend_their_share_until_their_next_message() {
    let mut world = World::new(30);
    let ids: Vec<_> = (0..3).map(|_| world.connect(100)).collect();
    world.plan(Mode::Open);
    assert_eq!(world.rdys(), [10, 10, 10]);
    world.pass(IDLE / 2, Mode::Open);
    world.deliver(ids[1]);
    world.pass(IDLE * 3 / 4, Mode::Open);
    assert_eq!(world.rdys(), [1, 28, 1]);
    assert_eq!(world.plan.watch_messages, [ids[0], ids[2]]);
    world.deliver(ids[0]);
    world.plan(Mode::Open);
    assert_eq!(world.rdys(), [15, 14, 1]);
}

#[test]
fn hold_sets_all_rdy_counts_to_zero() {
    let mut world = World::new(30);
    for _ in 0..3 {
        world.connect(100);
    }
    world.plan(Mode::Open);
    world.plan(Mode::Hold);
    assert_eq!(world.rdys(), [0, 0, 0]);
    assert_eq!(world.plan, Plan { changes: world.plan.changes.clone(), ..Plan::default() });
}

/// Every idle connection gets its turn within ⌈N ÷ M⌉ idle timeouts.
#[test]
fn every_connection_gets_its_turn_in_time() {
    for (connections, places) in [(2u64, 1u64), (100, 10), (11, 10), (7, 3), (5, 4)] {
        let mut world = World::new(places);
        for _ in 0..connections {
            world.connect(100);
        }
        let mut last_turn: BTreeMap<_, _> = world.servers.keys().map(|id| (*id, world.now)).collect();
        let bound = IDLE * connections.div_ceil(places) as u32;
        world.plan(Mode::Open);
        let until = world.now + bound * 5;
        while world.now < until {
            assert_eq!(world.rdys().iter().sum::<u64>(), places, "a place is unused");
            for (id, server) in &world.servers {
                if server.rdy > 0 {
                    last_turn.insert(*id, world.now);
                }
                assert!(
                    world.now - last_turn[id] <= bound,
                    "{id:?} of {connections}/{places} waits too long"
                );
            }
            world.now = world.plan.wake_at.expect("turns end").max(world.now + Duration::from_millis(1));
            world.plan(Mode::Open);
        }
    }
}

#[test]
fn busy_turn_ends_after_its_slice_once_the_message_is_answered() {
    let mut world = World::new(1);
    let ids: Vec<_> = (0..2).map(|_| world.connect(100)).collect();
    world.plan(Mode::Open);
    for _ in 0..9 {
        world.pass(IDLE / 10, Mode::Open);
        assert!(world.deliver(ids[0]));
        world.servers.get_mut(&ids[0]).unwrap().in_flight = 0;
    }
    world.deliver(ids[0]);
    world.pass(IDLE / 5, Mode::Open);
    assert_eq!(world.rdys(), [0, 0], "its message is still in flight");
    assert!(world.plan.watch_answers);
    world.servers.get_mut(&ids[0]).unwrap().in_flight = 0;
    world.plan(Mode::Open);
    assert_eq!(world.rdys(), [0, 1]);
}

#[test]
fn probe_starts_at_the_connection_of_the_last_message_then_moves_on() {
    let mut world = World::new(10);
    let ids: Vec<_> = (0..3).map(|_| world.connect(100)).collect();
    world.plan(Mode::Open);
    world.now += IDLE / 10;
    world.deliver(ids[1]);
    world.servers.get_mut(&ids[1]).unwrap().in_flight = 0;
    world.plan(Mode::Hold);
    world.now += IDLE;
    world.plan(Mode::Probe);
    assert_eq!(world.rdys(), [0, 1, 0]);
    world.pass(IDLE, Mode::Probe);
    assert_eq!(world.rdys(), [1, 0, 0], "no message arrived, so another connection is asked");
    assert!(world.deliver(ids[0]));
    world.plan(Mode::Probe);
    assert_eq!(world.rdys(), [0, 0, 0], "one message is enough");
    world.pass(IDLE * 10, Mode::Probe);
    assert_eq!(world.rdys(), [0, 0, 0], "nothing until the message is answered");
    world.plan(Mode::Hold);
    world.pass(IDLE, Mode::Probe);
    assert_eq!(world.rdys().iter().sum::<u64>(), 1);
}

#[test]
fn probe_continues_after_its_connection_is_lost() {
    let mut world = World::new(10);
    let ids: Vec<_> = (0..2).map(|_| world.connect(100)).collect();
    world.plan(Mode::Probe);
    let probed = *ids.iter().find(|id| world.servers[id].rdy == 1).unwrap();
    world.disconnect(probed);
    world.plan(Mode::Probe);
    assert_eq!(world.rdys(), [1]);
}

#[derive(Clone, Debug)]
enum Operation {
    Connect { cap: u64 },
    Disconnect { which: usize },
    Deliver { which: usize, count: usize },
    Answer { which: usize, count: u64 },
    SetMax { max: u64 },
    SetMode { mode: Mode },
    Pass { ms: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => (1u64..20).prop_map(|cap| Operation::Connect { cap }),
        1 => any::<usize>().prop_map(|which| Operation::Disconnect { which }),
        6 => (any::<usize>(), 1usize..8).prop_map(|(which, count)| Operation::Deliver { which, count }),
        6 => (any::<usize>(), 1u64..8).prop_map(|(which, count)| Operation::Answer { which, count }),
        1 => (0u64..40).prop_map(|max| Operation::SetMax { max }),
        1 => prop_oneof![3 => Just(Mode::Open), 1 => Just(Mode::Hold), 1 => Just(Mode::Probe)]
            .prop_map(|mode| Operation::SetMode { mode }),
        4 => (0u64..2500).prop_map(|ms| Operation::Pass { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The invariants hold after every operation (checked in `World::plan`). Once all messages are answered, the
    /// distribution is complete and even.
    #[test]
    fn invariants_hold_and_the_distribution_settles(operations in prop::collection::vec(operation(), 1..80)) {
        let mut world = World::new(10);
        let mut mode = Mode::Open;
        for operation in operations {
            let pick = |world: &World, which: usize| {
                world.servers.keys().nth(which.checked_rem(world.servers.len()).unwrap_or(0)).copied()
            };
            match operation {
                Operation::Connect { cap } => { world.connect(cap); }
                Operation::Disconnect { which } => if let Some(id) = pick(&world, which) { world.disconnect(id) },
                Operation::Deliver { which, count } => if let Some(id) = pick(&world, which) {
                    for _ in 0..count { world.deliver(id); }
                },
                Operation::Answer { which, count } => if let Some(id) = pick(&world, which) {
                    let server = world.servers.get_mut(&id).unwrap();
                    server.in_flight = server.in_flight.saturating_sub(count);
                },
                Operation::SetMax { max } => {
                    world.max_in_flight = max;
                    world.distributor.set_max_in_flight(max);
                }
                Operation::SetMode { mode: new } => mode = new,
                Operation::Pass { ms } => world.pass(Duration::from_millis(ms), mode),
            }
            world.plan(mode);
        }
        for server in world.servers.values_mut() {
            server.in_flight = 0;
        }
        world.plan(Mode::Open);
        world.pass(IDLE * 3, Mode::Open);
        let connections = world.servers.len() as u64;
        let sum: u64 = world.rdys().iter().sum();
        let caps: u64 = world.servers.values().map(|s| s.cap).sum();
        if connections <= world.max_in_flight {
            prop_assert_eq!(sum, caps.min(world.max_in_flight));
            prop_assert!(world.rdys().iter().all(|rdy| *rdy >= 1));
            let uncapped: Vec<_> = world.servers.values().filter(|s| s.rdy < s.cap).map(|s| s.rdy).collect();
            if let (Some(min), Some(max)) = (uncapped.iter().min(), uncapped.iter().max()) {
                prop_assert!(max - min <= 1, "{:?}", world.servers);
            }
        } else {
            prop_assert_eq!(sum, world.max_in_flight);
            prop_assert!(world.rdys().iter().all(|rdy| *rdy <= 1));
        }
    }
}
