//! What a program is made of, and how it is written down for the other world.

use std::fmt;

use lib_chan::ExitReason;

/// Names one process of a program; processes are numbered as they are spawned, and no number comes twice.
pub type Slot = u8;

/// Names one monitor of a program.
pub type Monitor = u8;

/// Names one name.
pub type Name = u8;

/// The actor that is no process of the program: the driver, who spawns the first and does to them what a third party can.
pub const OUTSIDE: Slot = 255;

/// Where the processes of a program are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// In one place.
    One,
    /// At the two ends of a session; in Erlang, on two nodes. A process is where the one that spawned it is.
    Two,
}

impl Ends {
    /// The end at which the driver spawns this process.
    pub fn of(self, child: Slot) -> usize {
        match self {
            Self::One => 0,
            Self::Two => usize::from(child % 2),
        }
    }

    /// Whether this process owns the session at its end. Its end is the end of the session.
    pub fn owns(self, slot: Slot) -> bool {
        self == Self::Two && slot < 2
    }

    /// Whether this process is never handed to the other end, which can do nothing to it, and knows it by nothing but
    /// the exit signals of links that it has made itself.
    pub fn hides(self, slot: Slot) -> bool {
        self == Self::Two && slot % 5 == 2
    }
}

/// The monitor that a `SpawnHow::Monitored` makes for this child.
pub const fn monitor_of_child(child: Slot) -> Monitor {
    child + 128
}

/// Exit reasons that both worlds have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "they are those of Erlang")]
pub enum Reason {
    Normal,
    Shutdown,
    Kill,
    Killed,
    NoProc,
    NoConnection,
    /// A crash: a run-time error there, a panic here.
    Crash,
    Boom,
    Bang,
    /// Not compared.
    Any,
}

impl Reason {
    /// All that a program can exit with.
    pub const SENT: [Self; 8] = [
        Self::Normal,
        Self::Shutdown,
        Self::Kill,
        Self::Killed,
        Self::NoProc,
        Self::NoConnection,
        Self::Boom,
        Self::Bang,
    ];

    const ALL: [Self; 10] = [
        Self::Normal,
        Self::Shutdown,
        Self::Kill,
        Self::Killed,
        Self::NoProc,
        Self::NoConnection,
        Self::Crash,
        Self::Boom,
        Self::Bang,
        Self::Any,
    ];

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// How it is said here.
    pub fn ours(self) -> ExitReason {
        match self {
            Self::Normal => ExitReason::Normal,
            Self::Shutdown => ExitReason::Shutdown,
            Self::Kill => ExitReason::Kill,
            Self::Killed => ExitReason::Killed,
            Self::NoProc => ExitReason::NoProc,
            Self::NoConnection => ExitReason::NoConnection,
            Self::Crash | Self::Any => ExitReason::Panic,
            Self::Boom => ExitReason::failed("boom"),
            Self::Bang => ExitReason::failed("bang"),
        }
    }

    /// What was said here.
    ///
    /// # Panics
    /// For a reason that no program sends.
    pub fn of_ours(reason: &ExitReason) -> Self {
        match reason {
            ExitReason::Normal => Self::Normal,
            ExitReason::Shutdown => Self::Shutdown,
            ExitReason::Kill => Self::Kill,
            ExitReason::Killed => Self::Killed,
            ExitReason::NoProc => Self::NoProc,
            ExitReason::NoConnection => Self::NoConnection,
            ExitReason::Panic => Self::Crash,
            ExitReason::Failed(text) if **text == *"boom" => Self::Boom,
            ExitReason::Failed(text) if **text == *"bang" => Self::Bang,
            other => panic!("no program sends {other:?}"),
        }
    }
}

/// How a process spawns another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are those of Erlang")]
pub enum SpawnHow {
    Plain,
    Linked,
    Monitored,
}

/// What a process that was spawned does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// What it is told.
    Serve,
    /// Ends at once.
    Return,
    /// Crashes at once.
    Crash,
    /// Ends at once, with this reason.
    Exit(Reason),
}

/// One thing that a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are those of Erlang")]
pub enum Op {
    Spawn(Slot, SpawnHow, Life),
    Link(Slot),
    Unlink(Slot),
    Monitor(Slot, Monitor),
    MonitorName(Name, Monitor),
    /// `demonitor(Ref, [info])`.
    Demonitor(Monitor),
    /// `demonitor(Ref, [flush, info])`.
    DemonitorFlush(Monitor),
    TrapExit(bool),
    Send(Slot, u8),
    SendName(Name, u8),
    Register(Name, Slot),
    Unregister(Name),
    WhereIs(Name),
    /// `exit/2`.
    ExitTo(Slot, Reason),
    /// `exit/1`.
    Exit(Reason),
    /// The process's function returns.
    Return,
    /// A run-time error.
    Crash,
    /// Leaves its mailbox alone from now on.
    Hold,
    /// Reads it again.
    Release,
    /// The connection between the two ends is lost, which this one notices first.
    Cut(u8),
}

impl Op {
    /// The four bytes that the other world reads.
    fn encode(self) -> [u8; 4] {
        match self {
            Self::Spawn(child, how, life) => {
                let life = match life {
                    Life::Serve => 0,
                    Life::Return => 1,
                    Life::Crash => 2,
                    Life::Exit(reason) => 3 + reason as u8,
                };
                [1, child, how as u8, life]
            }
            Self::Link(to) => [2, to, 0, 0],
            Self::Unlink(from) => [3, from, 0, 0],
            Self::Monitor(of, monitor) => [4, of, monitor, 0],
            Self::MonitorName(name, monitor) => [5, name, monitor, 0],
            Self::Demonitor(monitor) => [6, monitor, 0, 0],
            Self::DemonitorFlush(monitor) => [7, monitor, 0, 0],
            Self::TrapExit(trap) => [8, u8::from(trap), 0, 0],
            Self::Send(to, number) => [9, to, number, 0],
            Self::SendName(name, number) => [10, name, number, 0],
            Self::Register(name, process) => [11, name, process, 0],
            Self::Unregister(name) => [12, name, 0, 0],
            Self::WhereIs(name) => [13, name, 0, 0],
            Self::ExitTo(to, reason) => [14, to, reason as u8, 0],
            Self::Exit(reason) => [15, reason as u8, 0, 0],
            Self::Return => [16, 0, 0, 0],
            Self::Crash => [17, 0, 0, 0],
            Self::Hold => [18, 0, 0, 0],
            Self::Release => [19, 0, 0, 0],
            Self::Cut(end) => [20, end, 0, 0],
        }
    }

    /// Whether it is the last that `actor` may do.
    pub fn ends(self, actor: Slot) -> bool {
        match self {
            Self::Exit(_) | Self::Return | Self::Crash => true,
            Self::ExitTo(to, _) => to == actor,
            _ => false,
        }
    }
}

/// What one actor does without a rest in between. Then all come to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who; a step of one who is not alive is left out.
    pub actor: Slot,
    /// What.
    pub ops: Vec<Op>,
    /// All come to rest only after the next step, which is done at the same time.
    pub meanwhile: bool,
}

impl Step {
    /// One with a rest after it.
    pub const fn new(actor: Slot, ops: Vec<Op>) -> Self {
        Self { actor, ops, meanwhile: false }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.actor == OUTSIDE {
            write!(f, "outside {:?}", self.ops)?;
        } else {
            write!(f, "{:>7} {:?}", self.actor, self.ops)?;
        }
        if self.meanwhile { write!(f, " and meanwhile") } else { Ok(()) }
    }
}

/// Marks in a step's length that the next one is done at the same time.
const MEANWHILE: u8 = 0x80;

/// What both worlds run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program(pub Vec<Step>);

impl Program {
    /// The steps, and the actors in them, for whom it is open what they see: those that do something while another
    /// ends.
    pub fn open(&self) -> impl Iterator<Item = (u8, Slot)> {
        (1..).zip(self.0.windows(2)).filter_map(|(number, pair)| match pair {
            [one, other] if one.meanwhile && one.ops.last().is_some_and(|op| op.ends(one.actor)) => {
                Some((number, other.actor))
            }
            _ => None,
        })
    }

    /// Appends the bytes that the other world reads.
    ///
    /// # Panics
    /// For programs of more than 255 steps, or steps of more than 127 things to do.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::try_from(self.0.len()).expect("programs are short"));
        for step in &self.0 {
            bytes.push(step.actor);
            let len = u8::try_from(step.ops.len()).ok().filter(|len| *len < MEANWHILE);
            bytes.push(len.expect("steps are short") | if step.meanwhile { MEANWHILE } else { 0 });
            bytes.extend(step.ops.iter().flat_map(|op| op.encode()));
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.0.iter().enumerate() {
            writeln!(f, "{number:>4}: {step}")?;
        }
        Ok(())
    }
}
