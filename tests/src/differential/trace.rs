//! What was seen of a program, in a form in which two runs can be compared.

use std::collections::BTreeSet;
use std::fmt;

use super::program::{Monitor, OUTSIDE, Program, Reason, Slot};

/// What an operation returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing that is compared.
    Done,
    /// It said yes.
    True,
    /// It said no.
    False,
    /// It failed: no such process, no such name, a name that cannot be had.
    Failed,
    /// What it is about is not there in this program.
    Absent,
    /// A process.
    Process(Slot),
}

impl Value {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Done,
            1 => Self::True,
            2 => Self::False,
            3 => Self::Failed,
            4 => Self::Absent,
            _ => Self::Process(number.checked_sub(10)?),
        })
    }
}

/// One thing that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// What the operation with this index in its step returned.
    Returned(u8, Value),
    /// A message: from whom, and its number.
    Message(Slot, u8),
    /// An exit signal that was trapped; from `OUTSIDE` if it came from a process that is not known at this end.
    Exit(Slot, Reason),
    /// A monitor that fired; of whom, unless it was made by name.
    Down(Monitor, Slot, Reason),
    /// The process itself has ended.
    Ended(Reason),
}

impl Seen {
    /// Who sent it. Order is guaranteed only between two processes.
    fn sender(self) -> Option<Slot> {
        match self {
            Self::Message(from, _) | Self::Exit(from, _) | Self::Down(_, from, _) => Some(from),
            Self::Returned(..) | Self::Ended(_) => None,
        }
    }

    /// Whether it may come in any order with others of the kind from the same sender.
    const fn is_unordered(self) -> bool {
        matches!(
            self,
            Self::Down(..) | Self::Exit(_, Reason::NoProc | Reason::NoConnection) | Self::Exit(OUTSIDE, _)
        )
    }
}

/// What a process saw between two rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The index of the step before the rest.
    pub step: u8,
    /// Who saw it.
    pub actor: Slot,
    /// What.
    pub seen: Seen,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}, process {}: {:?}", self.step, self.actor, self.seen)
    }
}

/// Everything that was seen of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace(pub Vec<Entry>);

impl Trace {
    /// Reads what the other world wrote: six bytes an entry.
    ///
    /// # Errors
    /// Says what cannot be read.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (entries, rest) = bytes.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(format!("{} bytes are left over", rest.len()));
        }
        entries.iter().map(|entry| read_entry(*entry).ok_or_else(|| format!("{entry:?}"))).collect()
    }

    /// Leaves only what both worlds must agree on, in an order that both must agree on:
    ///
    /// * Between two rests a process sees what one other sent in order, and nothing is said about several others.
    /// * Several monitors of one process fire in any order, and of one that was not there, or is out of reach,
    ///   links and monitors do.
    /// * Processes that an end does not know look alike to it.
    /// * What a process saw in the step in which it ended is its secret: it may have ended before it looked.
    /// * What a process saw in a step in which another ended while it did something is open.
    /// * A process that ended in the step that spawned it may have ended before the observer knew it.
    #[must_use]
    pub fn comparable(mut self, program: &Program) -> Self {
        let open: BTreeSet<_> = program.open().collect();
        let ended: Vec<_> =
            self.0.iter().filter(|entry| matches!(entry.seen, Seen::Ended(_))).copied().collect();
        let ends = |entry: &Entry| ended.iter().any(|end| (end.step, end.actor) == (entry.step, entry.actor));
        self.0.retain(|entry| entry.seen.sender().is_none() || !ends(entry));
        self.0.retain(|entry| {
            matches!(entry.seen, Seen::Ended(_)) || !open.contains(&(entry.step, entry.actor))
        });
        self.0.sort_by_key(|entry| (entry.step, entry.actor, entry.seen.sender(), rank(entry.seen)));
        let together = |a: &Entry, b: &Entry| {
            let place = |entry: &Entry| (entry.step, entry.actor, entry.seen.sender());
            place(a) == place(b) && a.seen.is_unordered() && b.seen.is_unordered()
        };
        for run in self.0.chunk_by_mut(together) {
            run.sort_by_key(|entry| entry.seen);
        }
        self
    }

    /// How many steps were not left out.
    pub fn steps(&self) -> u8 {
        let steps: BTreeSet<_> = self.0.iter().map(|entry| entry.step).collect();
        u8::try_from(steps.len()).unwrap_or(u8::MAX)
    }

    /// The first entry that only one of the two has, from each.
    pub fn first_difference(&self, other: &Self) -> Option<(Option<Entry>, Option<Entry>)> {
        let len = self.0.len().max(other.0.len());
        let pair = |index: usize| (self.0.get(index).copied(), other.0.get(index).copied());
        (0..len).map(pair).find(|(ours, theirs)| ours != theirs)
    }
}

/// What comes from nobody has an order of its own: all returns, then the end.
fn rank(seen: Seen) -> (u8, u8) {
    match seen {
        Seen::Returned(index, _) => (0, index),
        Seen::Ended(_) => (1, 0),
        Seen::Message(..) | Seen::Exit(..) | Seen::Down(..) => (0, 0),
    }
}

impl FromIterator<Entry> for Trace {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

fn read_entry([step, actor, kind, a, b, c]: [u8; 6]) -> Option<Entry> {
    let seen = match kind {
        1 => Seen::Returned(a, Value::from_number(b)?),
        2 => Seen::Message(a, b),
        3 => Seen::Exit(a, Reason::from_number(b)?),
        4 => Seen::Down(a, b, Reason::from_number(c)?),
        5 => Seen::Ended(Reason::from_number(a)?),
        _ => return None,
    };
    Some(Entry { step, actor, seen })
}

/// The two traces of one program, side by side, for people.
pub struct Difference<'a> {
    /// What ran.
    pub program: &'a Program,
    /// What was seen here.
    pub ours: &'a Trace,
    /// What was seen in Erlang.
    pub theirs: &'a Trace,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program)?;
        if let Some((ours, theirs)) = self.ours.first_difference(self.theirs) {
            let say =
                |entry: Option<Entry>| entry.map_or_else(|| "nothing more".to_owned(), |it| it.to_string());
            writeln!(f, "  here:   {}", say(ours))?;
            writeln!(f, "  Erlang: {}", say(theirs))?;
        }
        Ok(())
    }
}
