//! The decisions, driven over a simulated Deployment whose controller, pods and clients behave as Kubernetes' do, with
//! the operator absent at any moment.

use proptest::prelude::*;

use super::*;

fn pod(name: &str, newest: bool) -> Pod {
    Pod {
        name: name.to_owned(),
        newest,
        ready: true,
        ending: false,
        accepts: true,
        cost: None,
        connections: Some(10),
    }
}

fn seen(wanted: i32, replicas: i32, pods: Vec<Pod>) -> Observed {
    Observed {
        wanted,
        max_draining: 1,
        by_node: false,
        deployment: Some(Deployment {
            replicas,
            observed: true,
        }),
        pods,
    }
}

#[test]
fn a_settled_cluster_needs_nothing() {
    let decided = decide(&seen(2, 2, vec![pod("a", true), pod("b", true)]));
    let nothing = Decision {
        replicas: 2,
        paused: false,
        accept: Vec::new(),
        cost: Vec::new(),
        picked_otherwise: Vec::new(),
        progressing: None,
    };
    assert_eq!(decided, nothing);
}

#[test]
fn the_next_replacement_waits_for_the_drain_before() {
    let mut old = pod("a", false);
    old.ending = true;
    let pods = vec![
        old,
        pod("b", false),
        pod("c", true),
        Pod {
            ready: false,
            ..pod("d", true)
        },
    ];
    let decided = decide(&seen(2, 2, pods.clone()));
    assert!(decided.paused);
    assert_eq!(decided.accept, [("b".to_owned(), false)]);
    assert_eq!(decided.cost, [("b".to_owned(), Some(LEAVING + 1))]);
    assert_eq!(decided.progressing.unwrap().reason, Reason::RollingOut);
    assert!(!decide(&seen(2, 2, pods[1..].to_vec())).paused);
}

#[test]
fn with_no_new_pod_ready_everybody_accepts() {
    let old = Pod {
        accepts: false,
        ..pod("a", false)
    };
    let new = Pod {
        ready: false,
        ..pod("b", true)
    };
    assert_eq!(
        decide(&seen(1, 1, vec![old, new])).accept,
        [("a".to_owned(), true)]
    );
}

#[test]
fn who_has_the_fewest_clients_is_marked_and_goes_then() {
    let mut pods = vec![
        pod("a", true),
        Pod {
            connections: Some(3),
            ..pod("b", true)
        },
        Pod {
            connections: None,
            ..pod("c", true)
        },
    ];
    let first = decide(&seen(2, 3, pods.clone()));
    assert_eq!(
        (first.replicas, first.cost),
        (3, vec![("b".to_owned(), Some(VICTIM))])
    );
    pods[1].cost = Some(VICTIM);
    let second = decide(&seen(2, 3, pods.clone()));
    assert_eq!((second.replicas, second.cost), (2, Vec::new()));
    // Kubernetes chose another: said, and nobody is marked any more.
    pods[0].ending = true;
    let third = decide(&seen(2, 2, pods.clone()));
    assert_eq!(third.picked_otherwise, ["a"]);
    assert_eq!(third.cost, [("b".to_owned(), None)]);
}

#[test]
fn a_pod_that_does_not_answer_is_never_marked() {
    let pods = vec![
        Pod {
            connections: None,
            ..pod("a", true)
        },
        pod("b", true),
    ];
    assert_eq!(
        decide(&seen(1, 2, pods)).cost,
        [("b".to_owned(), Some(VICTIM))]
    );
    let silent = vec![
        Pod {
            connections: None,
            ..pod("a", true)
        },
        Pod {
            connections: None,
            ..pod("b", true)
        },
    ];
    let decided = decide(&seen(1, 2, silent));
    assert_eq!(
        (decided.replicas, decided.cost),
        (2, Vec::new()),
        "without a number none goes"
    );
    assert!(
        decided
            .progressing
            .unwrap()
            .message
            .contains("none goes before")
    );
}

#[test]
fn a_scale_in_that_is_taken_back_leaves_no_mark() {
    let pods = vec![
        Pod {
            cost: Some(VICTIM),
            ..pod("a", true)
        },
        Pod {
            cost: Some(7),
            ..pod("b", true)
        },
    ];
    assert_eq!(decide(&seen(2, 2, pods)).cost, [("a".to_owned(), None)]);
}

/// A Deployment with its controller, its pods, and time in seconds.
#[derive(Debug, Clone)]
struct World {
    now: u32,
    wanted: i32,
    max_draining: i32,
    replicas: i32,
    paused: bool,
    template: u32,
    pods: Vec<Simulated>,
    made: u32,
    drain: u32,
    start: u32,
    most_draining: i32,
    by_node: bool,
}

#[derive(Debug, Clone)]
struct Simulated {
    name: String,
    template: u32,
    born: u32,
    ends: Option<u32>,
    accepts: bool,
    cost: Option<i32>,
    connections: Option<u64>,
}

const MIN_READY: u32 = 10;

impl World {
    fn new(replicas: i32, max_draining: i32, drain: u32, start: u32) -> Self {
        let mut world = Self {
            now: 1000,
            wanted: replicas,
            max_draining,
            replicas,
            paused: false,
            template: 1,
            pods: Vec::new(),
            made: 0,
            drain,
            start,
            most_draining: 0,
            by_node: false,
        };
        (0..replicas).for_each(|_| world.make());
        world.pods.iter_mut().for_each(|pod| pod.born = 0);
        world
    }

    fn make(&mut self) {
        self.made += 1;
        self.pods.push(Simulated {
            name: format!("p{}", self.made),
            template: self.template,
            born: self.now,
            ends: None,
            accepts: true,
            cost: None,
            connections: Some(u64::from(self.made * 7 % 5)),
        });
    }

    fn ready(&self, pod: &Simulated) -> bool {
        self.now >= pod.born + self.start
    }

    fn available(&self, pod: &Simulated) -> bool {
        self.now >= pod.born + self.start + MIN_READY
    }

    /// The Deployment's controller: rolling update with maxUnavailable 0 and maxSurge `max_draining`.
    fn control(&mut self) {
        let staying = |world: &Self, newest: Option<bool>| {
            let of = |pod: &&Simulated| {
                newest.is_none_or(|newest| newest == (pod.template == world.template))
            };
            count(
                world
                    .pods
                    .iter()
                    .filter(|pod| pod.ends.is_none())
                    .filter(of)
                    .count(),
            )
        };
        if self.paused {
            let surplus = staying(self, None) - self.replicas - self.max_draining;
            (0..surplus).for_each(|_| self.end_one(None));
            return;
        }
        while staying(self, Some(true)) < self.replicas
            && staying(self, None) < self.replicas + self.max_draining
        {
            self.make();
        }
        let surplus = staying(self, Some(true)) - self.replicas;
        (0..surplus).for_each(|_| self.end_one(Some(true)));
        let available = count(
            self.pods
                .iter()
                .filter(|pod| pod.ends.is_none() && self.available(pod))
                .count(),
        );
        let old = staying(self, Some(false));
        (0..old.min((available - self.replicas).max(0))).for_each(|_| self.end_one(Some(false)));
    }

    fn end_one(&mut self, newest: Option<bool>) {
        let now = self.now;
        let ranked = self.pods.iter().enumerate().filter(|(_, pod)| {
            pod.ends.is_none()
                && newest.is_none_or(|newest| newest == (pod.template == self.template))
        });
        let first = ranked
            .min_by_key(|(_, pod)| (self.ready(pod), pod.cost.unwrap_or(0), u32::MAX - pod.born));
        if let Some(index) = first.map(|(index, _)| index) {
            self.pods[index].ends = Some(now + self.drain);
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        self.pods
            .retain(|pod| pod.ends.is_none_or(|ends| now < ends));
        self.control();
        let draining = self.pods.iter().filter(|pod| pod.ends.is_some()).count();
        self.most_draining = self.most_draining.max(count(draining));
    }

    fn observed(&self) -> Observed {
        let pod = |pod: &Simulated| Pod {
            name: pod.name.clone(),
            newest: pod.template == self.template,
            ready: self.ready(pod) && pod.ends.is_none(),
            ending: pod.ends.is_some(),
            accepts: pod.accepts,
            cost: pod.cost,
            connections: pod.connections,
        };
        Observed {
            wanted: self.wanted,
            max_draining: self.max_draining,
            by_node: self.by_node,
            deployment: Some(Deployment {
                replicas: self.replicas,
                observed: true,
            }),
            pods: self.pods.iter().map(pod).collect(),
        }
    }

    /// The operator visits. It may be ended after any of its writes.
    fn visit(&mut self, writes: usize) -> Decision {
        let decided = decide(&self.observed());
        let mut left = writes;
        let mut may = || {
            left = left.saturating_sub(1);
            left > 0
        };
        if may() {
            (self.replicas, self.paused) = (decided.replicas, decided.paused);
        }
        for (name, accepts) in &decided.accept {
            if may() {
                self.named(name).accepts = *accepts;
            }
        }
        for (name, cost) in &decided.cost {
            if may() {
                self.named(name).cost = *cost;
            }
        }
        decided
    }

    fn named(&mut self, name: &str) -> &mut Simulated {
        self.pods.iter_mut().find(|pod| pod.name == name).unwrap()
    }

    /// Whether one of the pods that can take new clients, if there are any, is told to.
    fn served(&self) -> bool {
        let able: Vec<_> = self
            .pods
            .iter()
            .filter(|pod| pod.ends.is_none() && self.ready(pod))
            .collect();
        able.is_empty() || able.iter().any(|pod| pod.accepts)
    }

    fn is_settled(&self) -> bool {
        let all_new = self
            .pods
            .iter()
            .all(|pod| pod.template == self.template && pod.ends.is_none() && pod.accepts);
        all_new
            && !self.paused
            && count(self.pods.len()) == self.wanted
            && self.pods.iter().all(|pod| pod.cost.is_none())
    }
}

/// Until all is as asked for; how long that took.
fn settle(world: &mut World, operator: impl Fn(u32) -> usize) -> u32 {
    let begun = world.now;
    for _ in 0..20_000 {
        world.tick();
        let writes = operator(world.now);
        let calm = if writes > 0 {
            world.visit(writes).progressing.is_none()
        } else {
            false
        };
        if writes > 0 {
            assert!(world.served(), "nobody takes new clients: {world:#?}");
        }
        if world.is_settled() && calm {
            return world.now - begun;
        }
    }
    panic!("never settled: {world:#?}");
}

#[test]
fn a_rollout_drains_one_pod_after_the_other() {
    let mut world = World::new(4, 1, 60, 5);
    world.template = 2;
    let took = settle(&mut world, |_| usize::MAX);
    assert_eq!(world.most_draining, 1);
    assert!(took < 4 * (60 + 20), "{took}");
}

#[test]
fn without_the_operator_more_drain_at_once_and_the_end_is_the_same() {
    let mut world = World::new(4, 1, 60, 5);
    world.template = 2;
    settle(
        &mut world,
        |now| if now % 100 == 0 { usize::MAX } else { 0 },
    );
    assert!(world.most_draining > 1);
}

/// Clients that move when their pod ends, to any pod that takes new ones.
struct Clients {
    /// Where each is, and how often it has moved.
    places: Vec<(String, u32)>,
    dice: u64,
}

impl Clients {
    fn on(world: &World, each: usize) -> Self {
        let places = world
            .pods
            .iter()
            .flat_map(|pod| std::iter::repeat_n((pod.name.clone(), 0), each))
            .collect();
        Self { places, dice: 7 }
    }

    fn follow(&mut self, world: &World) {
        let takes = |pod: &&Simulated| pod.ends.is_none() && pod.accepts && world.ready(pod);
        let takers: Vec<&Simulated> = world.pods.iter().filter(takes).collect();
        for (place, moves) in &mut self.places {
            let stays = world
                .pods
                .iter()
                .any(|pod| pod.name == *place && pod.ends.is_none());
            if !stays && !takers.is_empty() {
                self.dice = self
                    .dice
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                place.clone_from(&takers[(self.dice >> 33) as usize % takers.len()].name);
                *moves += 1;
            }
        }
    }

    fn most_on_one(&self, world: &World) -> usize {
        world
            .pods
            .iter()
            .map(|pod| {
                self.places
                    .iter()
                    .filter(|(place, _)| *place == pod.name)
                    .count()
            })
            .max()
            .unwrap_or(0)
    }
}

#[test]
fn clients_move_twice_at_most_and_no_pod_takes_more_than_twice_its_share() {
    const EACH: usize = 400;
    for replicas in [1, 2, 3, 4, 7, 10] {
        let mut world = World::new(replicas, 1, 60, 5);
        let mut clients = Clients::on(&world, EACH);
        world.template = 2;
        for _ in 0..2_000 {
            world.tick();
            world.visit(usize::MAX);
            clients.follow(&world);
            let most = clients.most_on_one(&world);
            // With what chance adds.
            assert!(
                most <= 2 * EACH + EACH / 4,
                "{replicas} pods: one has {most}"
            );
        }
        assert!(world.is_settled());
        let moves = clients.places.iter().map(|(_, moves)| *moves).max();
        assert!(moves <= Some(2), "{replicas} pods: {moves:?}");
    }
}

#[test]
fn a_surge_that_never_gets_ready_and_a_balancer_of_nodes_change_nothing_for_clients() {
    let new = Pod {
        ready: false,
        ..pod("c", true)
    };
    let decided = decide(&seen(2, 2, vec![pod("a", false), pod("b", false), new]));
    assert_eq!((decided.accept, decided.cost), (Vec::new(), Vec::new()));
    let by_node = Observed {
        by_node: true,
        ..seen(2, 2, vec![pod("a", false), pod("b", false), pod("c", true)])
    };
    let decided = decide(&by_node);
    assert_eq!((decided.accept, decided.cost), (Vec::new(), Vec::new()));
}

#[test]
fn fewer_pods_go_one_by_one_and_those_with_the_fewest_clients() {
    let mut world = World::new(4, 1, 60, 5);
    world
        .pods
        .iter_mut()
        .zip([40, 10, 30, 20])
        .for_each(|(pod, clients)| pod.connections = Some(clients));
    world.wanted = 2;
    settle(&mut world, |_| usize::MAX);
    assert_eq!(world.most_draining, 1);
    let names: Vec<_> = world.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["p1", "p3"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is asked for while it goes on, and wherever the operator is ended: the same end, and never nobody to take
    /// new clients.
    #[test]
    fn every_way_ends_as_asked(
        replicas in 1..7_i32,
        max_draining in 1..3_i32,
        drain in 1..90_u32,
        start in 1..20_u32,
        steps in prop::collection::vec((0..7_i32, any::<bool>(), 1..200_u32), 1..4),
        writes in prop::collection::vec(0..6_usize, 1..40),
        unknown in any::<bool>(),
    ) {
        let mut world = World::new(replicas, max_draining, drain, start);
        for (wanted, new_template, ticks) in steps {
            world.wanted = wanted;
            world.template += u32::from(new_template);
            for _ in 0..ticks {
                world.tick();
                if unknown {
                    world.pods.iter_mut().for_each(|pod| pod.connections = None);
                }
                let writes = writes[world.now as usize % writes.len()];
                if writes > 0 {
                    world.visit(writes);
                }
            }
        }
        // In the end they answer: until one does, a scale-in waits.
        world.pods.iter_mut().for_each(|pod| _ = pod.connections.get_or_insert(0));
        settle(&mut world, |_| usize::MAX);
    }

    /// With the operator there, no more drain at once than allowed.
    #[test]
    fn the_bound_holds(
        replicas in 1..8_i32, max_draining in 1..4_i32, drain in 1..120_u32, start in 1..20_u32, fewer in 0..8_i32,
    ) {
        let mut world = World::new(replicas, max_draining, drain, start);
        world.template = 2;
        settle(&mut world, |_| usize::MAX);
        prop_assert!(world.most_draining <= max_draining, "{}", world.most_draining);
        world.wanted = (replicas - fewer).max(0);
        settle(&mut world, |_| usize::MAX);
        prop_assert!(world.most_draining <= max_draining, "{}", world.most_draining);
    }
}
