use proptest::prelude::*;

use super::*;
use crate::api::ConditionStatus;

/// An etcd of three that is changed by what is decided, and by what befalls it.
#[derive(Debug, Clone)]
struct World {
    members: Vec<Member>,
    replicas: Vec<Held>,
    mirrored: bool,
    anew: bool,
    next_id: u64,
}

#[derive(Debug, Clone, Default)]
struct Held {
    /// Which member the volume's data are of; none: it is empty.
    data: Option<u64>,
    bootstrapped: bool,
    /// Whether the template that its pod began with says that a cluster exists.
    existing: bool,
}

fn healthy(led: bool) -> Answer {
    Answer {
        led,
        learner: false,
        leads: false,
        size: 1000,
        in_use: 900,
        full: false,
    }
}

impl World {
    fn new(count: usize) -> Self {
        Self {
            members: Vec::new(),
            replicas: vec![Held::default(); count],
            mirrored: false,
            anew: false,
            next_id: 1,
        }
    }

    /// Whether a member can be part of a quorum: whoever has data of a listed member.
    fn alive(&self, ordinal: usize) -> Option<&Member> {
        let data = self.replicas[ordinal].data?;
        self.members.iter().find(|member| member.id == data)
    }

    fn led(&self) -> bool {
        let voters = self.members.iter().filter(|member| !member.learner).count();
        let there = (0..self.replicas.len())
            .filter_map(|ordinal| self.alive(ordinal))
            .filter(|member| !member.learner);
        voters > 0 && there.count() > voters / 2
    }

    fn seen(&self) -> Observed {
        let replica = |number: usize| {
            let held = &self.replicas[number];
            let answer = self.alive(number).map(|member| Answer {
                learner: member.learner,
                ..healthy(self.led())
            });
            Replica {
                bootstrapped: held.bootstrapped,
                ready: answer.is_some_and(|answer| answer.led && !answer.learner),
                outdated: false,
                stale: held.existing != self.existing(),
                waiting: held.existing && held.data.is_none(),
                crashing: false,
                answer,
            }
        };
        Observed {
            namespace: "chat".to_owned(),
            name: "demo".to_owned(),
            replicas: (0..self.replicas.len()).map(replica).collect(),
            members: self.led().then(|| self.members.clone()),
            mirrored: self.mirrored,
            anew: self.anew,
        }
    }

    fn existing(&self) -> bool {
        self.replicas.iter().any(|held| held.bootstrapped) || (self.mirrored && !self.anew)
    }

    /// What the pods do by themselves: form a cluster, or join where they are awaited.
    fn live(&mut self) {
        let fresh = |held: &Held| !held.existing && held.data.is_none();
        if self.replicas.iter().all(fresh) {
            self.members.clear();
            for ordinal in 0..self.replicas.len() {
                let id = self.next_id;
                self.next_id += 1;
                self.members.push(Member {
                    id,
                    ordinal: Some(ordinal),
                    started: true,
                    learner: false,
                });
                self.replicas[ordinal].data = Some(id);
            }
        }
        for (ordinal, held) in self.replicas.iter_mut().enumerate() {
            let awaited = self
                .members
                .iter_mut()
                .find(|member| member.ordinal == Some(ordinal) && !member.started);
            if let Some(member) = awaited.filter(|_| held.data.is_none() && held.existing) {
                member.started = true;
                held.data = Some(member.id);
            }
        }
    }

    fn act(&mut self, action: Action) {
        let led = self.led();
        match action {
            Action::MarkBootstrapped(ordinal) => self.replicas[ordinal].bootstrapped = true,
            Action::Restart(ordinal) => {
                let existing = self.existing();
                self.replicas[ordinal].existing = existing;
            }
            Action::Remove(id) => {
                assert!(led, "a member is removed without a majority");
                self.members.retain(|member| member.id != id);
            }
            Action::Add(ordinal) => {
                assert!(led, "a member is added without a majority");
                let id = self.next_id;
                self.next_id += 1;
                self.members.push(Member {
                    id,
                    ordinal: Some(ordinal),
                    started: false,
                    learner: true,
                });
            }
            Action::Promote(id) => {
                assert!(led, "a member is promoted without a majority");
                let member = self
                    .members
                    .iter_mut()
                    .find(|member| member.id == id)
                    .expect("listed");
                assert!(member.started, "an absent member gets a vote");
                member.learner = false;
            }
            Action::RemoveAnnotation => self.anew = false,
            Action::Defragment(_) | Action::Disarm => {}
        }
    }

    /// One round, of which only so many actions are done: the operator dies after them.
    fn round(&mut self, done: usize) -> Decision {
        let decision = decide(&self.seen());
        decision
            .actions
            .iter()
            .take(done)
            .for_each(|action| self.act(*action));
        if done >= decision.actions.len() {
            self.mirrored = decision.existing;
        }
        self.live();
        decision
    }

    fn settle(&mut self) -> Decision {
        for _ in 0..30 {
            self.live();
            let decision = self.round(usize::MAX);
            if decision.actions.is_empty() && decision.verdict.reason == Reason::AsExpected {
                return decision;
            }
        }
        panic!("not settled: {:?} of {self:?}", decide(&self.seen()));
    }

    /// A volume is lost and its pod begins anew; with its claim, or only what was on it.
    fn lose(&mut self, ordinal: usize, claim: bool) {
        let existing = self.existing();
        let held = &mut self.replicas[ordinal];
        held.data = None;
        held.bootstrapped &= !claim;
        held.existing = existing;
    }
}

#[test]
fn a_first_start_latches_every_volume_and_then_says_existing() {
    let mut world = World::new(3);
    world.live();
    let decision = decide(&world.seen());
    assert!(!decision.existing);
    assert_eq!(
        decision.actions,
        [
            Action::MarkBootstrapped(0),
            Action::MarkBootstrapped(1),
            Action::MarkBootstrapped(2)
        ]
    );
    world.settle();
    assert!(world.existing());
    assert!(
        decide(&world.seen()).actions.is_empty(),
        "a settled etcd is left alone"
    );
}

#[test]
fn nothing_is_latched_before_all_are_there() {
    let mut world = World::new(3);
    world.live();
    world.replicas[2].data = None;
    let decision = decide(&world.seen());
    assert_eq!(decision.actions, []);
    assert_eq!(decision.verdict.reason, Reason::Starting);
}

#[test]
fn a_lost_member_is_let_go_and_taken_in_again_as_a_learner() {
    let mut world = World::new(3);
    world.settle();
    let old = world.replicas[1].data.expect("data");
    world.lose(1, true);
    let decision = world.round(usize::MAX);
    assert_eq!(decision.actions, [Action::Remove(old)]);
    assert_eq!(decision.verdict.reason, Reason::MemberReplacing);
    assert_eq!(
        decision.verdict.status,
        ConditionStatus::True,
        "two of three serve"
    );
    assert_eq!(world.round(usize::MAX).actions, [Action::Add(1)]);
    let new = world.replicas[1].data.expect("joined");
    assert_ne!(new, old, "it must not have the votes of the lost one");
    assert_eq!(world.round(usize::MAX).actions, [Action::Promote(new)]);
    assert_eq!(
        world.round(usize::MAX).actions,
        [Action::MarkBootstrapped(1)]
    );
    world.settle();
}

#[test]
fn two_lost_of_three_are_said_and_never_healed_silently() {
    let mut world = World::new(3);
    world.settle();
    world.lose(0, true);
    world.lose(2, true);
    let decision = world.round(usize::MAX);
    assert_eq!(
        (decision.verdict.reason, decision.actions.as_slice()),
        (Reason::DataLost, [].as_slice())
    );
    assert!(
        decision
            .verdict
            .message
            .contains("demo-etcd-0 and demo-etcd-2"),
        "{}",
        decision.verdict.message
    );
    // What the message says to run.
    for ordinal in 0..3 {
        world.lose(ordinal, true);
    }
    assert_eq!(
        world.round(usize::MAX).verdict.reason,
        Reason::DataLost,
        "the status remembers"
    );
    world.anew = true;
    world.settle();
    assert!(
        !world.anew,
        "the word was taken back, and does not count another time"
    );
}

#[test]
fn the_only_member_with_an_empty_volume_waits_for_a_person() {
    let mut world = World::new(1);
    world.settle();
    world.lose(0, true);
    for _ in 0..5 {
        let decision = world.round(usize::MAX);
        assert_eq!(
            (decision.verdict.reason, decision.actions.as_slice()),
            (Reason::DataLost, [].as_slice())
        );
    }
    world.anew = true;
    world.settle();
}

#[test]
fn without_a_majority_nothing_is_changed() {
    let mut world = World::new(3);
    world.settle();
    let mut seen = world.seen();
    seen.members = None;
    for replica in &mut seen.replicas[..2] {
        (replica.answer, replica.ready) = (None, false);
    }
    let decision = decide(&seen);
    assert_eq!(
        (decision.verdict.reason, decision.actions.as_slice()),
        (Reason::NoQuorum, [].as_slice())
    );
}

#[test]
fn new_templates_go_one_at_a_time_and_only_while_all_serve() {
    let mut world = World::new(3);
    world.settle();
    let mut seen = world.seen();
    seen.replicas
        .iter_mut()
        .for_each(|replica| replica.outdated = true);
    assert_eq!(decide(&seen).actions, [Action::Restart(2)]);
    seen.replicas[2] = Replica {
        bootstrapped: true,
        ..Replica::default()
    };
    assert_eq!(decide(&seen).actions, [], "one is away");
    seen.replicas[2].outdated = true;
    assert_eq!(
        decide(&seen).actions,
        [Action::Restart(2)],
        "what does not serve with its template gets the next one"
    );
}

#[test]
fn a_stale_template_alone_restarts_nobody() {
    let mut world = World::new(3);
    world.settle();
    assert!(
        world.seen().replicas.iter().all(|replica| replica.stale),
        "they began before a cluster existed"
    );
    assert_eq!(decide(&world.seen()).actions, []);
}

#[test]
fn a_member_that_a_person_removed_is_told_of() {
    let mut world = World::new(3);
    world.settle();
    world.members.retain(|member| member.ordinal != Some(1));
    let decision = decide(&world.seen());
    assert_eq!(decision.verdict.reason, Reason::NeedsDecision);
    assert!(
        decision
            .verdict
            .message
            .contains("delete pvc data-demo-etcd-1"),
        "{}",
        decision.verdict.message
    );
}

proptest! {
    /// Volumes are lost one after the other, the operator dies after any number of actions: it always comes back to three
    /// members with a vote, and no member is changed without a majority (asserted by the world).
    #[test]
    fn one_lost_volume_after_the_other_is_always_made_good(
        losses in prop::collection::vec((0_usize..3, any::<bool>(), prop::collection::vec(0_usize..3, 0..8)), 1..6),
    ) {
        let mut world = World::new(3);
        world.settle();
        for (ordinal, claim, deaths) in losses {
            world.lose(ordinal, claim);
            for done in deaths {
                world.round(done);
            }
            let decision = world.settle();
            prop_assert!(decision.existing);
            prop_assert_eq!(world.members.len(), 3);
            prop_assert!(world.members.iter().all(|member| !member.learner && member.started));
        }
    }

    /// Whatever is seen: nothing panics, and without a list of members nothing is done to them.
    #[test]
    fn anything_can_be_seen(
        replicas in prop::collection::vec(
            (any::<[bool; 5]>(), prop::option::of(any::<[bool; 2]>())).prop_map(|([bootstrapped, ready, outdated, stale, waiting], answer)| Replica {
                bootstrapped, ready, outdated, stale, waiting, crashing: stale && !ready,
                answer: answer.map(|[led, learner]| Answer { learner, ..healthy(led) }),
            }), 0..5),
        members in prop::option::of(prop::collection::vec((any::<u64>(), prop::option::of(0_usize..5), any::<[bool; 2]>()), 0..6)),
        flags in any::<[bool; 2]>(),
    ) {
        let count = replicas.len();
        let member = |(id, ordinal, [started, learner]): (u64, Option<usize>, [bool; 2])| {
            Member { id, ordinal: ordinal.filter(|ordinal| *ordinal < count), started, learner }
        };
        let seen = Observed {
            namespace: "chat".to_owned(), name: "demo".to_owned(), replicas,
            members: members.map(|members| members.into_iter().map(member).collect()),
            mirrored: flags[0], anew: flags[1],
        };
        let decision = decide(&seen);
        let changes = |action: &Action| matches!(action, Action::Remove(_) | Action::Add(_) | Action::Promote(_));
        let count = decision.actions.iter().filter(|action| changes(action)).count();
        prop_assert!(seen.members.is_some() || count == 0);
    }
}

#[test]
fn what_only_the_operator_cannot_reach_is_unknown() {
    let mut world = World::new(3);
    world.settle();
    let mut seen = world.seen();
    seen.members = None;
    seen.replicas
        .iter_mut()
        .for_each(|replica| replica.answer = None);
    let decision = decide(&seen);
    let told = (
        decision.verdict.status,
        decision.verdict.reason,
        decision.actions,
    );
    assert_eq!(
        told,
        (ConditionStatus::Unknown, Reason::Unreachable, Vec::new())
    );
    // Where Kubernetes finds no majority ready, there is none.
    seen.replicas[..2]
        .iter_mut()
        .for_each(|replica| replica.ready = false);
    assert_eq!(decide(&seen).verdict.reason, Reason::NoQuorum);
}

#[test]
fn files_that_hold_little_are_written_anew_one_by_one_and_the_leaders_last() {
    let mut world = World::new(3);
    world.settle();
    let mut seen = world.seen();
    let answer = |leads| {
        Some(Answer {
            leads,
            size: SMALL,
            in_use: SMALL / 2 - 1,
            ..healthy(true)
        })
    };
    for (ordinal, leads) in [(0, true), (1, false), (2, false)] {
        seen.replicas[ordinal].answer = answer(leads);
    }
    let mut story = Vec::new();
    while let [Action::Defragment(ordinal)] = decide(&seen).actions[..] {
        seen.replicas[ordinal].answer = Some(healthy(true));
        story.push(ordinal);
    }
    assert_eq!(story, [1, 2, 0]);
    seen.replicas[0].answer = answer(true);
    seen.replicas[1].ready = false;
    assert_eq!(decide(&seen).actions, [], "not while another is away");
    seen.replicas[1].ready = true;
    seen.replicas[0].answer = Some(Answer {
        size: SMALL,
        in_use: SMALL / 2,
        ..healthy(true)
    });
    assert_eq!(decide(&seen).actions, []);
}

#[test]
fn a_quota_that_is_used_up_is_told_and_lifted_once_there_is_room() {
    let mut world = World::new(3);
    world.settle();
    let mut seen = world.seen();
    let of = |size, full| {
        Some(Answer {
            size,
            in_use: 500,
            full,
            ..healthy(true)
        })
    };
    seen.replicas
        .iter_mut()
        .for_each(|replica| replica.answer = of(1000, true));
    assert_eq!(
        (decide(&seen).verdict.reason, decide(&seen).verdict.holds()),
        (Reason::DiskFailing, false)
    );
    for ordinal in 0..3 {
        assert_eq!(decide(&seen).actions, [Action::Defragment(ordinal)]);
        seen.replicas[ordinal].answer = of(500, true);
    }
    assert_eq!(decide(&seen).actions, [Action::Disarm]);
    seen.replicas
        .iter_mut()
        .for_each(|replica| replica.answer = of(500, false));
    assert_eq!(
        (decide(&seen).verdict.holds(), decide(&seen).actions),
        (true, Vec::new())
    );
}

#[test]
fn a_member_that_cannot_run_is_told_with_the_way_out() {
    let mut world = World::new(3);
    world.settle();
    let mut seen = world.seen();
    seen.replicas[1] = Replica {
        ready: false,
        crashing: true,
        answer: None,
        ..seen.replicas[1]
    };
    let decision = decide(&seen);
    assert_eq!(
        (decision.verdict.reason, decision.actions),
        (Reason::NeedsDecision, Vec::new())
    );
    assert!(
        decision
            .verdict
            .message
            .contains("delete pvc data-demo-etcd-1 "),
        "{}",
        decision.verdict.message
    );
    seen.replicas[1].outdated = true;
    assert_ne!(
        decide(&seen).verdict.reason,
        Reason::NeedsDecision,
        "the next template may mend it"
    );
}
