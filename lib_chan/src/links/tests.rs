//! Each rule of links and exits alone, and two tables in every order of their steps.

use super::*;

fn exit(links: &mut Links<char>, from: char, reason: ExitReason, link: bool, trap: bool) -> ExitEffect {
    links.handle_exit(ExitSignal { from: &from, reason: &reason, link, own: from == 'a' }, trap)
}

/// The table of `a`, linked to `b`.
fn linked() -> Links<char> {
    let mut links = Links::default();
    links.handle_link('b');
    links
}

#[test]
fn drops_exit_over_inactive_link() {
    for trap in [false, true] {
        assert_eq!(exit(&mut Links::default(), 'b', ExitReason::Shutdown, true, trap), ExitEffect::Drop);
        let mut links = linked();
        assert_eq!(links.unlink(&'b'), Some(1));
        assert_eq!(links.sent(&'b'), None);
        assert_eq!(exit(&mut links, 'b', ExitReason::Shutdown, true, trap), ExitEffect::Drop);
        links.handle_unlink_ack(&'b', 1);
        assert!(links.is_empty());
    }
}

#[test]
fn exit_ignored_by_unlink_admits_no_link() {
    let mut links = linked();
    assert_eq!(links.unlink(&'b'), Some(1));
    assert_eq!(links.sent(&'b'), None);
    assert_eq!(exit(&mut links, 'b', ExitReason::NoProc, true, true), ExitEffect::Drop);
    links.handle_link('b');
    assert!(!links.is_linked(&'b'), "the other side takes that one away when the unlink comes");
    links.handle_unlink_ack(&'b', 1);
    assert!(links.is_empty());
}

#[test]
fn exit_of_former_link_spares_new_one() {
    let mut links = linked();
    assert_eq!(links.unlink(&'b'), Some(1));
    assert_eq!(links.sent(&'b'), None);
    assert!(links.link('b').link);
    assert_eq!(links.sent(&'b'), None);
    assert_eq!(exit(&mut links, 'b', ExitReason::Overload, true, true), ExitEffect::Drop);
    assert!(links.is_linked(&'b'));
    links.handle_unlink_ack(&'b', 1);
    assert_eq!(exit(&mut links, 'b', ExitReason::NoProc, true, true), ExitEffect::Deliver);
    assert!(links.is_empty());
}

#[test]
fn kill_from_outside_ends_as_killed() {
    for trap in [false, true] {
        let verdict = exit(&mut linked(), 'b', ExitReason::Kill, false, trap);
        assert_eq!(verdict, ExitEffect::End(ExitReason::Killed));
    }
}

#[test]
fn rule_3_who_traps_is_told() {
    for (reason, link) in [
        (ExitReason::Kill, true),
        (ExitReason::Killed, false),
        (ExitReason::Normal, true),
        (ExitReason::Normal, false),
    ] {
        assert_eq!(exit(&mut linked(), 'b', reason, link, true), ExitEffect::Deliver);
    }
}

#[test]
fn rule_4_normal_is_dropped_but_from_oneself() {
    assert_eq!(exit(&mut linked(), 'b', ExitReason::Normal, true, false), ExitEffect::Drop);
    assert_eq!(exit(&mut linked(), 'b', ExitReason::Normal, false, false), ExitEffect::Drop);
    let verdict = exit(&mut linked(), 'a', ExitReason::Normal, false, false);
    assert_eq!(verdict, ExitEffect::End(ExitReason::Normal));
}

#[test]
fn rule_5_any_other_reason_is_the_end() {
    for (reason, link) in [(ExitReason::Kill, true), (ExitReason::Panic, true), (ExitReason::Killed, false)] {
        assert_eq!(exit(&mut linked(), 'b', reason.clone(), link, false), ExitEffect::End(reason));
    }
}

#[test]
fn only_exit_over_link_removes_it() {
    let mut links = linked();
    assert_eq!(exit(&mut links, 'b', ExitReason::Normal, false, false), ExitEffect::Drop);
    assert!(links.is_linked(&'b'));
    assert_eq!(exit(&mut links, 'b', ExitReason::Normal, true, false), ExitEffect::Drop);
    assert!(links.is_empty());
}

#[test]
fn monitors_are_counted_and_tell_once() {
    let mut links = Links::default();
    let [first, second] = [MonitorRef::new(1), MonitorRef::new(2)];
    links.monitor(first, 'b');
    links.monitor(second, 'b');
    assert_eq!(links.demonitor(first), Some('b'));
    assert_eq!(links.demonitor(first), None);
    assert_eq!(links.handle_down(first), None);
    assert_eq!(links.handle_down(second), Some('b'));
    assert_eq!(links.handle_down(second), None);
    assert!(links.is_empty());
}

#[test]
fn parting_tells_active_links_watchers_and_the_watched() {
    let mut links = linked();
    links.handle_link('c');
    links.unlink(&'c');
    links.handle_unlink('d', 7);
    links.handle_monitor(MonitorRef::new(1), 'e');
    links.monitor(MonitorRef::new(2), 'f');
    let parting = links.part();
    assert_eq!(parting.links, ['b']);
    assert_eq!(parting.watchers, [(MonitorRef::new(1), 'e')]);
    assert_eq!(parting.watched, [(MonitorRef::new(2), 'f')]);
    assert!(links.is_empty());
}

#[test]
fn acknowledgement_does_not_overtake_unlink() {
    let mut links = Links::default();
    links.handle_link('b');
    assert_eq!(links.unlink(&'b'), Some(1));
    assert!(!links.handle_unlink('b', 7), "the Unlink is on its way");
    assert_eq!(links.sent(&'b'), Some(7));
    links.ack_delivered(&'b', 7);
    links.handle_unlink_ack(&'b', 1);
    assert!(links.is_empty());
}

#[test]
fn acknowledgement_waits_for_all_signals_in_flight() {
    let mut links = Links::default();
    links.handle_link('b');
    assert_eq!(links.unlink(&'b'), Some(1));
    assert!(!links.handle_unlink('b', 7));
    // Another thread that uses the process links, while its Unlink is in flight.
    assert_eq!(links.link('b'), LinkRequest { ack: None, link: true });
    assert_eq!(links.sent(&'b'), None);
    assert_eq!(links.sent(&'b'), Some(7));
}

/// Two processes that link and unlink each other, each in a thread of its own, step by step. A step is what
/// happens under one lock; between two of them the other may take any number of its own.
#[derive(Clone)]
struct Two {
    tables: [Links<usize>; 2],
    /// What each thread has still to do, the next one last.
    steps: [Vec<Step>; 2],
}

/// A step; the number is that of the process whose table it changes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Link(usize),
    HandleLink(usize),
    Sent(usize),
    Unlink(usize),
    HandleUnlink(usize, u64),
    HandleAck(usize, u64),
    AckDelivered(usize, u64),
}

impl Two {
    fn new(scripts: [Script; 2]) -> Self {
        let steps = [0, 1].map(|me| scripts[me].iter().rev().map(|step| step(me)).collect());
        Self { tables: [Links::default(), Links::default()], steps }
    }

    fn step(&mut self, thread: usize) {
        let step = self.steps[thread].pop().unwrap();
        let mut next = |steps: &[Step]| self.steps[thread].extend(steps.iter().rev());
        match step {
            Step::Link(me) => {
                let request = self.tables[me].link(1 - me);
                if request.link {
                    next(&[Step::HandleLink(1 - me), Step::Sent(me)]);
                }
                if let Some(id) = request.ack {
                    next(&[Step::HandleAck(1 - me, id)]);
                }
            }
            Step::HandleLink(me) => self.tables[me].handle_link(1 - me),
            Step::Sent(me) => {
                if let Some(id) = self.tables[me].sent(&(1 - me)) {
                    next(&[Step::HandleAck(1 - me, id), Step::AckDelivered(me, id)]);
                }
            }
            Step::Unlink(me) => {
                if let Some(id) = self.tables[me].unlink(&(1 - me)) {
                    next(&[Step::HandleUnlink(1 - me, id), Step::Sent(me)]);
                }
            }
            Step::HandleUnlink(me, id) => {
                if self.tables[me].handle_unlink(1 - me, id) {
                    next(&[Step::HandleAck(1 - me, id), Step::AckDelivered(me, id)]);
                }
            }
            Step::HandleAck(me, id) => self.tables[me].handle_unlink_ack(&(1 - me), id),
            Step::AckDelivered(me, id) => self.tables[me].ack_delivered(&(1 - me), id),
        }
    }

    fn agree(&self) {
        let [a, b] = [0, 1].map(|me| self.tables[me].is_linked(&(1 - me)));
        assert_eq!(a, b, "{:?}", self.tables);
        for table in &self.tables {
            assert_eq!(table.len(), usize::from(a), "{:?}", self.tables);
        }
    }
}

/// What a process does by itself.
type Script = &'static [fn(usize) -> Step];

const SCRIPTS: [Script; 6] = [
    &[Step::Link],
    &[Step::Link, Step::Unlink],
    &[Step::Unlink, Step::Link],
    &[Step::Link, Step::Unlink, Step::Link],
    &[Step::Unlink, Step::Link, Step::Unlink],
    &[Step::Link, Step::Unlink, Step::Link, Step::Unlink],
];

#[test]
fn both_sides_agree_in_every_order_of_steps() {
    let mut ends = 0;
    for first in SCRIPTS {
        for second in SCRIPTS {
            let mut seen = std::collections::HashSet::new();
            let mut open = vec![Two::new([first, second])];
            while let Some(two) = open.pop() {
                if !seen.insert(format!("{:?}{:?}", two.tables, two.steps)) {
                    continue;
                }
                if two.steps.iter().all(Vec::is_empty) {
                    two.agree();
                    ends += 1;
                }
                for thread in [0, 1] {
                    if !two.steps[thread].is_empty() {
                        let mut after = two.clone();
                        after.step(thread);
                        open.push(after);
                    }
                }
            }
        }
    }
    assert!(ends > 36);
}
