//! What one process knows of its links and monitors, and what an exit signal does to it.
//!
//! Pure data: nothing here sends, waits or locks. The methods change the table and say which signals to send; whoever
//! holds the table sends them, in that order, after it has let go of the lock around it.
//!
//! A record is kept on both sides of a link. `unlink` makes the record of its own side inactive at once, and the other
//! side answers with an acknowledgement; only that removes the record. So an exit over the link that was under way is
//! ignored, also where the link was made again meanwhile: what comes before the acknowledgement is about the link that
//! was taken back. Both sides agree afterwards whatever crossed on the way.
//!
//! That needs one order of `Link` and `UnlinkAck` from one process to the other, though a process sends the first
//! itself and the second is sent for it, by whoever brought the `Unlink`. So the table remembers the acknowledgement
//! that it owes until that was delivered. [`Links::link`] has it sent again before the `Link`: a second one has no
//! effect, because its number is known no more. And while a `Link` is on its way, the acknowledgement waits for it, and
//! [`Links::link_sent`] gives it out.

use std::collections::BTreeMap;

use crate::ExitReason;

/// Names one monitor. Every call of `monitor` makes a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonitorRef(u64);

impl MonitorRef {
    /// The reference with this number. Whoever counts sees to it that no number comes twice.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Debug for MonitorRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What an exit signal does to the process that receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Drop,
    /// It becomes a message.
    Deliver,
    /// The process ends, with this reason.
    End(ExitReason),
}

/// An exit signal, as its receiver sees it.
#[derive(Clone, Copy, Debug)]
pub struct ExitSignal<'a, P> {
    /// Who sent it.
    pub from: &'a P,
    /// The reason in it.
    pub reason: &'a ExitReason,
    /// Whether it came over a link.
    pub link: bool,
    /// Whether sender and receiver are the same process.
    pub own: bool,
}

/// What [`Links::link`] asks to be sent to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRequest {
    /// An `UnlinkAck` with this number first.
    pub ack: Option<u64>,
    /// Whether a `Link` is to be sent. Not where the link was there already.
    pub link: bool,
}

/// Everybody who has to be told of an end, from [`Links::part`].
#[derive(Debug)]
pub struct Parting<P> {
    /// Get an `Exit` over the link.
    pub links: Vec<P>,
    /// Get a `Down`.
    pub watchers: Vec<(MonitorRef, P)>,
    /// Get a `Demonitor`.
    pub watched: Vec<(MonitorRef, P)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    Active,
    /// This side has unlinked, and the other may not know: a `Link` from there is older than that.
    TakenBack,
    /// There is no link; the record is here for an acknowledgement.
    Absent,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    state: LinkState,
    /// The number of the last `Unlink` of this side, until that is acknowledged: an `Exit` before is older.
    awaits: Option<u64>,
    /// The number of an `Unlink` that came in and whose acknowledgement may not have been delivered yet.
    owed: Option<u64>,
    /// A `Link` is on its way to the other side.
    sending: bool,
}

impl Link {
    const ABSENT: Self = Self { state: LinkState::Absent, awaits: None, owed: None, sending: false };

    /// Whether nothing would be lost with the record.
    fn is_over(&self) -> bool {
        self.state == LinkState::Absent && self.awaits.is_none() && self.owed.is_none() && !self.sending
    }
}

/// The links and monitors of one process. `P` names the others.
#[derive(Clone, Debug)]
pub struct Links<P> {
    links: BTreeMap<P, Link>,
    watchers: BTreeMap<MonitorRef, P>,
    watched: BTreeMap<MonitorRef, P>,
    last_unlink: u64,
}

impl<P> Default for Links<P> {
    fn default() -> Self {
        Self { links: BTreeMap::new(), watchers: BTreeMap::new(), watched: BTreeMap::new(), last_unlink: 0 }
    }
}

impl<P: Ord + Clone> Links<P> {
    /// This process links to `to`. Once the `Link` asked for was sent, call [`link_sent`](Self::link_sent), or
    /// [`link_failed`](Self::link_failed) if there is nobody.
    pub fn link(&mut self, to: P) -> LinkRequest {
        let record = self.links.entry(to).or_insert(Link::ABSENT);
        if record.state == LinkState::Active {
            return LinkRequest { ack: None, link: false };
        }
        record.state = LinkState::Active;
        record.sending = true;
        LinkRequest { ack: record.owed.take(), link: true }
    }

    /// The `Link` has arrived at the other side. Gives the number of an `UnlinkAck` that had to wait for it: send it,
    /// then call [`ack_delivered`](Self::ack_delivered).
    pub fn link_sent(&mut self, to: &P) -> Option<u64> {
        let record = self.links.get_mut(to)?;
        record.sending = false;
        let owed = record.owed;
        self.tidy(to);
        owed
    }

    /// There is nobody at the other side. `false` if this process was told of that already, or unlinked, meanwhile.
    pub fn link_failed(&mut self, to: &P) -> bool {
        self.links.remove(to).is_some_and(|record| record.state == LinkState::Active)
    }

    /// A `Link` came in. Ignored where there is a record: the link is active then, or this side has unlinked after
    /// the other sent it.
    pub fn handle_link(&mut self, from: P) {
        let record = self.links.entry(from).or_insert(Link::ABSENT);
        if record.state == LinkState::Absent {
            // The other side would not have linked again before it had what was owed; or it has unlinked and linked
            // again, and then wants it no more.
            record.state = LinkState::Active;
        }
    }

    /// This process unlinks from `to`: from now on the link has no effect on it. Gives the number of the `Unlink` to
    /// send, or nothing where there was no link.
    pub fn unlink(&mut self, to: &P) -> Option<u64> {
        let record = self.links.get_mut(to).filter(|record| record.state == LinkState::Active)?;
        self.last_unlink += 1;
        record.state = LinkState::TakenBack;
        record.awaits = Some(self.last_unlink);
        Some(self.last_unlink)
    }

    /// An `Unlink` came in. Whether to answer it now with an `UnlinkAck` of the same number, and then to call
    /// [`ack_delivered`](Self::ack_delivered); else whoever sends the `Link` that is under way does it.
    pub fn handle_unlink(&mut self, from: P, id: u64) -> bool {
        let record = self.links.entry(from).or_insert(Link::ABSENT);
        if record.state == LinkState::Active {
            record.state = LinkState::Absent;
        }
        record.owed = Some(id);
        !record.sending
    }

    /// The acknowledgement that was owed has arrived at the other side.
    pub fn ack_delivered(&mut self, to: &P, id: u64) {
        if let Some(record) = self.links.get_mut(to).filter(|record| record.owed == Some(id)) {
            record.owed = None;
            self.tidy(to);
        }
    }

    /// An `UnlinkAck` came in: lets the record go, unless the link was made anew since.
    pub fn handle_unlink_ack(&mut self, from: &P, id: u64) {
        if let Some(record) = self.links.get_mut(from).filter(|record| record.awaits == Some(id)) {
            record.awaits = None;
            if record.state == LinkState::TakenBack {
                record.state = LinkState::Absent;
            }
            self.tidy(from);
        }
    }

    fn tidy(&mut self, peer: &P) {
        if self.links.get(peer).is_some_and(Link::is_over) {
            self.links.remove(peer);
        }
    }

    /// An `Exit` came in. The first rule that fits decides:
    ///
    /// 1. it came over a link, and there is no active one, or only one made again since: dropped;
    /// 2. it did not, and says `kill`: the end, as `killed`, and nothing helps against it;
    /// 3. the process traps exits: a message;
    /// 4. it says `normal`: dropped, except from the process itself;
    /// 5. the end, with the same reason.
    pub fn handle_exit(&mut self, signal: ExitSignal<'_, P>, trap_exit: bool) -> Verdict {
        if signal.link {
            let is_current = |link: &&mut Link| link.state == LinkState::Active && link.awaits.is_none();
            let Some(link) = self.links.get_mut(signal.from).filter(is_current) else {
                return Verdict::Drop;
            };
            link.state = LinkState::Absent;
            self.tidy(signal.from);
        } else if *signal.reason == ExitReason::Kill {
            return Verdict::End(ExitReason::Killed);
        }
        if trap_exit {
            Verdict::Deliver
        } else if *signal.reason == ExitReason::Normal && !signal.own {
            Verdict::Drop
        } else {
            Verdict::End(signal.reason.clone())
        }
    }

    /// This process monitors `target`. Send a `Monitor`.
    pub fn monitor(&mut self, monitor: MonitorRef, target: P) {
        self.watched.insert(monitor, target);
    }

    /// This process gives a monitor up. Gives whom to send a `Demonitor`, or nothing where it is not there (any more).
    pub fn demonitor(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watched.remove(&monitor)
    }

    /// A `Monitor` came in.
    pub fn handle_monitor(&mut self, monitor: MonitorRef, from: P) {
        self.watchers.insert(monitor, from);
    }

    /// A `Demonitor` came in. Gives who had monitored.
    pub fn handle_demonitor(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watchers.remove(&monitor)
    }

    /// A `Down` came in: it becomes a message if this gives who was monitored, and not where the monitor was given up.
    pub fn handle_down(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watched.remove(&monitor)
    }

    /// The end: empties the table, and says whom to tell. Tell the links first: that order is kept.
    pub fn part(&mut self) -> Parting<P> {
        let links = std::mem::take(&mut self.links);
        Parting {
            links: links
                .into_iter()
                .filter(|(_, record)| record.state == LinkState::Active)
                .map(|(peer, _)| peer)
                .collect(),
            watchers: std::mem::take(&mut self.watchers).into_iter().collect(),
            watched: std::mem::take(&mut self.watched).into_iter().collect(),
        }
    }

    /// Whether there is an active link to `peer`.
    pub fn is_linked(&self, peer: &P) -> bool {
        self.links.get(peer).is_some_and(|record| record.state == LinkState::Active)
    }

    /// The others that this process has an active link to.
    pub fn links(&self) -> impl Iterator<Item = &P> {
        self.links.iter().filter(|(_, record)| record.state == LinkState::Active).map(|(peer, _)| peer)
    }

    /// Records of any kind: links active and not, monitors in both directions.
    pub fn len(&self) -> usize {
        self.links.len() + self.watchers.len() + self.watched.len()
    }

    /// Whether there is no record of any kind.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(links: &mut Links<char>, from: char, reason: ExitReason, link: bool, trap: bool) -> Verdict {
        links.handle_exit(ExitSignal { from: &from, reason: &reason, link, own: from == 'a' }, trap)
    }

    /// The table of `a`, linked to `b`.
    fn linked() -> Links<char> {
        let mut links = Links::default();
        links.handle_link('b');
        links
    }

    #[test]
    fn rule_1_an_exit_over_no_active_link_is_dropped() {
        for trap in [false, true] {
            assert_eq!(exit(&mut Links::default(), 'b', ExitReason::Shutdown, true, trap), Verdict::Drop);
            let mut links = linked();
            assert_eq!(links.unlink(&'b'), Some(1));
            assert_eq!(exit(&mut links, 'b', ExitReason::Shutdown, true, trap), Verdict::Drop);
            links.handle_unlink_ack(&'b', 1);
            assert!(links.is_empty());
        }
    }

    #[test]
    fn an_exit_that_unlink_ignores_does_not_open_the_door_to_a_link_sent_before_it() {
        let mut links = linked();
        assert_eq!(links.unlink(&'b'), Some(1));
        assert_eq!(exit(&mut links, 'b', ExitReason::NoProc, true, true), Verdict::Drop);
        links.handle_link('b');
        assert!(!links.is_linked(&'b'), "the other side takes that one away when the unlink comes");
        links.handle_unlink_ack(&'b', 1);
        assert!(links.is_empty());
    }

    #[test]
    fn an_exit_of_the_link_before_does_not_end_the_one_made_again() {
        let mut links = linked();
        assert_eq!(links.unlink(&'b'), Some(1));
        assert!(links.link('b').link);
        assert_eq!(links.link_sent(&'b'), None);
        assert_eq!(exit(&mut links, 'b', ExitReason::Overload, true, true), Verdict::Drop);
        assert!(links.is_linked(&'b'));
        links.handle_unlink_ack(&'b', 1);
        assert_eq!(exit(&mut links, 'b', ExitReason::NoProc, true, true), Verdict::Deliver);
        assert!(links.is_empty());
    }

    #[test]
    fn rule_2_kill_from_outside_is_the_end_as_killed() {
        for trap in [false, true] {
            let verdict = exit(&mut linked(), 'b', ExitReason::Kill, false, trap);
            assert_eq!(verdict, Verdict::End(ExitReason::Killed));
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
            assert_eq!(exit(&mut linked(), 'b', reason, link, true), Verdict::Deliver);
        }
    }

    #[test]
    fn rule_4_normal_is_dropped_but_from_oneself() {
        assert_eq!(exit(&mut linked(), 'b', ExitReason::Normal, true, false), Verdict::Drop);
        assert_eq!(exit(&mut linked(), 'b', ExitReason::Normal, false, false), Verdict::Drop);
        let verdict = exit(&mut linked(), 'a', ExitReason::Normal, false, false);
        assert_eq!(verdict, Verdict::End(ExitReason::Normal));
    }

    #[test]
    fn rule_5_any_other_reason_is_the_end() {
        for (reason, link) in
            [(ExitReason::Kill, true), (ExitReason::Panic, true), (ExitReason::Killed, false)]
        {
            assert_eq!(exit(&mut linked(), 'b', reason.clone(), link, false), Verdict::End(reason));
        }
    }

    #[test]
    fn an_exit_over_a_link_removes_it_and_another_does_not() {
        let mut links = linked();
        assert_eq!(exit(&mut links, 'b', ExitReason::Normal, false, false), Verdict::Drop);
        assert!(links.is_linked(&'b'));
        assert_eq!(exit(&mut links, 'b', ExitReason::Normal, true, false), Verdict::Drop);
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
        LinkSent(usize),
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
                        next(&[Step::HandleLink(1 - me), Step::LinkSent(me)]);
                    }
                    if let Some(id) = request.ack {
                        next(&[Step::HandleAck(1 - me, id)]);
                    }
                }
                Step::HandleLink(me) => self.tables[me].handle_link(1 - me),
                Step::LinkSent(me) => {
                    if let Some(id) = self.tables[me].link_sent(&(1 - me)) {
                        next(&[Step::HandleAck(1 - me, id), Step::AckDelivered(me, id)]);
                    }
                }
                Step::Unlink(me) => {
                    if let Some(id) = self.tables[me].unlink(&(1 - me)) {
                        next(&[Step::HandleUnlink(1 - me, id)]);
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
}
