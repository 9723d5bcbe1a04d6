//! What is measured against what, and the targets.

use crate::{local, net};

/// One kind of work, and who does it.
pub(super) struct Bout {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    /// Ours first.
    pub(super) contestants: Vec<Contestant>,
    pub(super) rows: Vec<Row>,
}

/// What a number of a bout means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Things done in a second, with this name.
    PerSecond(&'static str),
    /// Bytes in a second, for messages of this length.
    BytesPerSecond { len: usize },
    /// The median of the times of single calls.
    MedianTime,
    /// Bytes of memory.
    BytesEach,
}

impl Unit {
    pub(super) const fn is_more_better(self) -> bool {
        matches!(self, Self::PerSecond(_) | Self::BytesPerSecond { .. })
    }
}

/// Somebody who does some work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contestant {
    Local(local::System, local::Work),
    Erlang(local::Work),
    Net(net::Peer, net::Work, usize),
}

impl Contestant {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Local(local::System::Chan, _) => "lib_chan",
            Self::Local(local::System::Mpsc, _) => "tokio mpsc",
            Self::Local(local::System::Ractor, _) => "ractor",
            Self::Local(local::System::Kameo, _) => "kameo",
            Self::Local(local::System::KameoUnbounded, _) => "kameo, unbounded",
            Self::Erlang(_) => "Erlang/OTP",
            Self::Net(peer, ..) => peer.name(),
        }
    }
}

/// Ours against the better of these.
pub(super) struct Row {
    pub(super) against: Vec<Contestant>,
    pub(super) target: Option<Target>,
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// The ratio, at least.
    AtLeast(f64),
    /// The ratio, at most.
    AtMost(f64),
    /// Our number itself, under this.
    Under(f64),
}

pub(super) fn all() -> Vec<Bout> {
    use Target::{AtLeast, AtMost, Under};
    use local::Work::{
        Call, CallFromMain, Chain, Empty, EmptyWithin, FourToOne, Idle, OneWay, PingPong, Ring, Spawn, Star,
        Timeout,
    };
    use net::Peer::{Chan, ChanAll, ChanBytes, Raw, Tarpc, Tonic, TonicFed};
    let net = |peer, work, len| Contestant::Net(peer, work, len);
    let latency = |peer| net(peer, net::Work::Latency, 64);
    let calls = |peer| net(peer, net::Work::Calls, 64);
    let short = |peer| net(peer, net::Work::OneWay, 64);
    let long = |peer| net(peer, net::Work::OneWay, 16 * 1024);
    let connect = |peer| net(peer, net::Work::Connect, 0);
    let idle = |peer| net(peer, net::Work::Idle, 0);
    let messages = Unit::PerSecond("messages");
    vec![
        processes("local: messages, one sender", messages, OneWay, Some(AtLeast(3.0)), Some(AtLeast(1.0))),
        processes("local: messages, four senders", messages, FourToOne, None, None),
        with_erlang("local: messages, each awaited with a timeout", messages, Timeout, Some(AtLeast(1.0))),
        with_erlang("local: an empty mailbox, `try_recv`", Unit::PerSecond("looks"), Empty, None),
        with_erlang(
            "local: an empty mailbox, `recv_within` zero",
            Unit::PerSecond("looks"),
            EmptyWithin,
            None,
        ),
        with_erlang("local: calls from a process", Unit::PerSecond("calls"), Call, None),
        with_erlang("local: calls from the main task", Unit::PerSecond("calls"), CallFromMain, None),
        processes("local: ping-pong", Unit::PerSecond("round trips"), PingPong, None, None),
        processes("local: spawn and end", Unit::PerSecond("processes"), Spawn, Some(AtLeast(4.0)), None),
        processes("local: an idle process", Unit::BytesEach, Idle, Some(Under(1536.0)), None),
        with_erlang("local: 10 000 in a chain end", Unit::MedianTime, Chain, None),
        with_erlang("local: 10 000 in a star end", Unit::MedianTime, Star, None),
        with_erlang("local: 10 000 in a ring end", Unit::MedianTime, Ring, None),
        Bout {
            name: "net: one caller, 64 B, latency",
            unit: Unit::MedianTime,
            contestants: [Chan, Raw, Tarpc, Tonic].map(latency).into(),
            rows: vec![row([latency(Raw)], Some(AtMost(1.15)))],
        },
        Bout {
            name: "net: 64 callers, 64 B",
            unit: Unit::PerSecond("calls"),
            contestants: [Chan, Tarpc, Tonic].map(calls).into(),
            rows: vec![row([calls(Tarpc)], Some(AtLeast(3.0))), row([calls(Tonic)], Some(AtLeast(8.0)))],
        },
        Bout {
            name: "net: one way, 64 B",
            unit: messages,
            contestants: [Chan, TonicFed, Tonic].map(short).into(),
            rows: vec![row([short(TonicFed)], Some(AtLeast(4.0))), row([short(Tonic)], None)],
        },
        Bout {
            name: "net: one way, 64 B, many at once",
            unit: messages,
            contestants: [ChanAll, TonicFed, Tonic, Chan].map(short).into(),
            rows: vec![
                row([short(Tonic)], Some(AtLeast(3.0))),
                row([short(TonicFed)], None),
                row([short(Chan)], None),
            ],
        },
        Bout {
            name: "net: one way, 16 KiB",
            unit: Unit::BytesPerSecond { len: 16 * 1024 },
            contestants: [ChanBytes, Raw, Chan].map(long).into(),
            rows: vec![row([long(Raw)], Some(AtLeast(0.8)))],
        },
        Bout {
            name: "net: connect and authenticate",
            unit: Unit::PerSecond("connections"),
            contestants: [Chan, Raw].map(connect).into(),
            rows: vec![row([connect(Raw)], Some(AtLeast(0.7)))],
        },
        Bout {
            name: "net: an idle session",
            unit: Unit::BytesEach,
            contestants: [Chan, Raw].map(idle).into(),
            rows: vec![row([idle(Raw)], Some(AtMost(1.3)))],
        },
    ]
}

fn row<const N: usize>(against: [Contestant; N], target: Option<Target>) -> Row {
    Row { against: against.into(), target }
}

/// A bout that only lib_chan and Erlang can take part in.
fn with_erlang(name: &'static str, unit: Unit, work: local::Work, target: Option<Target>) -> Bout {
    let erlang = Contestant::Erlang(work);
    Bout {
        name,
        unit,
        contestants: vec![Contestant::Local(local::System::Chan, work), erlang],
        rows: vec![row([erlang], target)],
    }
}

/// A bout inside one program: against the actors, against tokio, and against Erlang.
fn processes(
    name: &'static str,
    unit: Unit,
    work: local::Work,
    actors: Option<Target>,
    tokio: Option<Target>,
) -> Bout {
    use local::System::{Chan, Kameo, KameoUnbounded, Mpsc, Ractor};
    let [ours, mpsc, ractor, kameo, unbounded] =
        [Chan, Mpsc, Ractor, Kameo, KameoUnbounded].map(|system| Contestant::Local(system, work));
    let erlang = Contestant::Erlang(work);
    Bout {
        name,
        unit,
        contestants: vec![ours, mpsc, ractor, kameo, unbounded, erlang],
        rows: vec![row([ractor, kameo, unbounded], actors), row([mpsc], tokio), row([erlang], None)],
    }
}
