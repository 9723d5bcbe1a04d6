//! What one process knows of its links and monitors, and what an exit signal does to it.
//!
//! Pure data: nothing here sends, waits or locks. The methods change the table and say which signals to send; whoever
//! holds the table sends them, in that order, after it has let go of the lock around it.
//!
//! [`Link`] is the state machine of a link; a session runs the same one for links that cross it.
//!
//! It needs `Link` and `UnlinkAck` to arrive in the order sent, though a process sends the first itself and the thread
//! that brought the `Unlink` sends the second for it. So the table remembers the acknowledgement that it owes until
//! that was delivered. [`Links::link`] has it sent again before the `Link`: a second one has no effect, because its
//! number is known no more. And while a `Link` is on its way, the acknowledgement waits for it, and
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

/// A link as one of its two sides knows it.
///
/// A side that takes the link back knows what was sent before the other side heard of it: everything that comes in
/// front of the acknowledgement. So no exit of a link that was taken back is ever taken for one of a link made since,
/// and both sides agree in the end, whatever crossed on the way.
///
/// ```text
///            link, Link in          unlink              Ack in
///   Absent ───────────────▶ Active ────────▶ Unlinking ────────▶ Absent
///      ▲                      │ ▲                │ link
///      └──────────────────────┘ │ Ack in         ▼        Unlink in
///        Unlink in, Exit in     └──────────── Relinked ◀───────────▶ Unlinked ──▶ Absent
///                                                       link, Link in       Ack in
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// There is no link.
    #[default]
    Absent,
    /// There is a link.
    Active,
    /// This side has sent an `Unlink` with this number: a `Link` or `Exit` that comes in is older.
    Unlinking(u64),
    /// And has linked again since: an `Exit` that comes in is one of the link before.
    Relinked(u64),
    /// And then the other side has unlinked.
    Unlinked(u64),
}

impl Link {
    /// Returns whether there is a link for this side.
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Active | Self::Relinked(_))
    }

    /// Returns whether there is nothing to remember.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns the number of the `Unlink` that the other side has not acknowledged.
    pub const fn awaits(&self) -> Option<u64> {
        match *self {
            Self::Absent | Self::Active => None,
            Self::Unlinking(number) | Self::Relinked(number) | Self::Unlinked(number) => Some(number),
        }
    }

    /// This side links. Returns whether to send a `Link`.
    pub const fn link(&mut self) -> bool {
        *self = match *self {
            Self::Active | Self::Relinked(_) => return false,
            Self::Absent => Self::Active,
            Self::Unlinking(number) | Self::Unlinked(number) => Self::Relinked(number),
        };
        true
    }

    /// This side unlinks. Returns whether to send an `Unlink` with this number.
    pub const fn unlink(&mut self, number: u64) -> bool {
        let was_active = self.is_active();
        if was_active {
            *self = Self::Unlinking(number);
        }
        was_active
    }

    /// A `Link` came in. Returns whether it made the link.
    pub const fn handle_link(&mut self) -> bool {
        *self = match *self {
            Self::Absent => Self::Active,
            Self::Unlinked(number) => Self::Relinked(number),
            Self::Active | Self::Relinked(_) | Self::Unlinking(_) => return false,
        };
        true
    }

    /// An `Unlink` came in, which must be acknowledged in any case. Returns whether it removed the link.
    pub const fn handle_unlink(&mut self) -> bool {
        *self = match *self {
            Self::Active => Self::Absent,
            Self::Relinked(number) => Self::Unlinked(number),
            Self::Absent | Self::Unlinking(_) | Self::Unlinked(_) => return false,
        };
        true
    }

    /// An `UnlinkAck` with this number came in.
    pub fn handle_unlink_ack(&mut self, number: u64) {
        if self.awaits() == Some(number) {
            *self = if self.is_active() { Self::Active } else { Self::Absent };
        }
    }

    /// An `Exit` came in over the link. Returns whether it is the end of the link that this side knows.
    pub const fn handle_exit(&mut self) -> bool {
        let is_current = matches!(self, Self::Active);
        if is_current {
            *self = Self::Absent;
        }
        is_current
    }
}

/// What a process knows of a link, and what it has still to send about it.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    link: Link,
    /// The number of an `Unlink` that came in and whose acknowledgement may not have been delivered yet.
    owed: Option<u64>,
    /// A `Link` is on its way to the other side.
    sending: bool,
}

impl Record {
    /// Returns whether nothing would be lost with the record.
    const fn is_over(&self) -> bool {
        self.link.is_absent() && self.owed.is_none() && !self.sending
    }
}

/// The links and monitors of one process. `P` names the others.
#[derive(Clone, Debug)]
pub struct Links<P> {
    links: BTreeMap<P, Record>,
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
        let record = self.links.entry(to).or_default();
        if !record.link.link() {
            return LinkRequest { ack: None, link: false };
        }
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
        self.links.remove(to).is_some_and(|record| record.link.is_active())
    }

    /// A `Link` came in.
    pub fn handle_link(&mut self, from: P) {
        self.links.entry(from).or_default().link.handle_link();
    }

    /// This process unlinks from `to`: from now on the link has no effect on it. Returns the number of the `Unlink` to
    /// send, or `None` where there was no link.
    pub fn unlink(&mut self, to: &P) -> Option<u64> {
        let number = self.last_unlink + 1;
        let sent = self.links.get_mut(to)?.link.unlink(number);
        sent.then(|| {
            self.last_unlink = number;
            number
        })
    }

    /// An `Unlink` came in. Returns whether to answer it now with an `UnlinkAck` of the same number, and then to call
    /// [`ack_delivered`](Self::ack_delivered); else the sender of the `Link` that is on its way does it.
    pub fn handle_unlink(&mut self, from: P, id: u64) -> bool {
        let record = self.links.entry(from).or_default();
        record.link.handle_unlink();
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

    /// An `UnlinkAck` came in.
    pub fn handle_unlink_ack(&mut self, from: &P, id: u64) {
        if let Some(record) = self.links.get_mut(from) {
            record.link.handle_unlink_ack(id);
            self.tidy(from);
        }
    }

    fn tidy(&mut self, peer: &P) {
        if self.links.get(peer).is_some_and(Record::is_over) {
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
            let is_its_end = self.links.get_mut(signal.from).is_some_and(|record| record.link.handle_exit());
            if !is_its_end {
                return Verdict::Drop;
            }
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
                .filter(|(_, record)| record.link.is_active())
                .map(|(peer, _)| peer)
                .collect(),
            watchers: std::mem::take(&mut self.watchers).into_iter().collect(),
            watched: std::mem::take(&mut self.watched).into_iter().collect(),
        }
    }

    /// Whether there is an active link to `peer`.
    pub fn is_linked(&self, peer: &P) -> bool {
        self.links.get(peer).is_some_and(|record| record.link.is_active())
    }

    /// The others that this process has an active link to.
    pub fn links(&self) -> impl Iterator<Item = &P> {
        self.links.iter().filter(|(_, record)| record.link.is_active()).map(|(peer, _)| peer)
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
