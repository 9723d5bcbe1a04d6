//! Links, monitors, exits and ids between the two ends of a session.
//!
//! Longer than other files, because crossings of all of these are tested on the same pair of ends.

use std::collections::{BTreeMap, VecDeque};

use super::{
    lone::{Lone, TERMS},
    pair::{End, Pair},
};
use crate::{
    ExitReason, Limits, Rights,
    handshake::Side,
    links::{ExitEffect, ExitSignal, Links},
    session::Delivery,
    wire::Frame,
};

const ALL: Rights = Rights { send: true, monitor: true, link: true, exit: true, kill: true };

fn exit(from: u64, to: u32, reason: ExitReason) -> Delivery<u32> {
    Delivery::Exit { from, to, reason, link: true, provoked: false }
}

/// That of a link that the peer has set.
fn provoked(from: u64, to: u32, reason: ExitReason) -> Delivery<u32> {
    Delivery::Exit { from, to, reason, link: true, provoked: true }
}

fn down(monitor: u64, from: u64, to: u32, reason: ExitReason) -> Delivery<u32> {
    Delivery::Down { monitor, from, to, reason }
}

/// Client process 1 owns the one end, server process 2 the other; 20 is the server's, handed out as id 1 with all rights.
fn pair() -> Pair {
    let mut pair = Pair::open(1);
    pair.client.session.set_owner(Some(1), false);
    pair.server.session.set_owner(Some(2), false);
    assert_eq!(pair.server.session.hand_out(20, ALL), 1);
    assert_eq!(pair.server.session.hand_out(20, ALL), 1, "one process, one id");
    pair
}

#[test]
fn link_reaches_process_and_end_returns() {
    let mut pair = pair();
    pair.client.session.link(10, 1);
    pair.settle();
    assert_eq!(pair.server.deliveries(), [Delivery::Link { from: 1, to: 20 }]);
    pair.server.session.exit(&20, 1, Some(0), ExitReason::failed("boom"));
    pair.settle();
    assert_eq!(pair.client.deliveries(), [exit(1, 10, ExitReason::failed("boom"))]);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn end_of_linker_reaches_other_end() {
    let mut pair = pair();
    pair.client.session.link(10, 1);
    pair.client.session.exit(&10, 1, Some(0), ExitReason::Kill);
    pair.settle();
    assert_eq!(
        pair.server.deliveries(),
        [Delivery::Link { from: 1, to: 20 }, provoked(1, 20, ExitReason::Kill)]
    );
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn link_without_right_gets_noproc() {
    let mut pair = pair();
    let silent = Rights { monitor: false, ..Rights::default() };
    assert_eq!(pair.server.session.hand_out(21, silent), 2);
    for far in [2, 99] {
        pair.client.session.link(10, far);
        pair.client.session.monitor(10, 500 + far, far);
        pair.settle();
        assert_eq!(
            pair.client.deliveries(),
            [exit(far, 10, ExitReason::NoProc), down(500 + far, far, 10, ExitReason::NoProc)]
        );
    }
    assert_eq!(pair.server.deliveries(), []);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn link_gives_no_other_right() {
    let mut pair = pair();
    pair.client.session.link(10, 0);
    pair.settle();
    pair.server.deliveries();
    // The server knows process 10 as id 1, and that is all.
    pair.server.session.monitor(2, 7, 1);
    pair.server.session.exit(&2, 1, None, ExitReason::Kill);
    pair.server.session.link(20, 1);
    pair.settle();
    assert_eq!(pair.client.deliveries(), []);
    assert_eq!(
        pair.server.deliveries(),
        [down(7, 1, 2, ExitReason::NoProc), exit(1, 20, ExitReason::NoProc)]
    );
    pair.client.session.exit(&10, 0, Some(0), ExitReason::Normal);
    pair.settle();
    assert_eq!(pair.server.deliveries(), [provoked(1, 2, ExitReason::Normal)]);
    // The name went with the link, and a new link has a new one.
    pair.client.session.link(10, 0);
    pair.settle();
    assert_eq!(pair.server.deliveries(), [Delivery::Link { from: 2, to: 2 }]);
}

#[test]
fn link_taken_back_can_be_made_again() {
    let mut pair = pair();
    pair.client.session.link(10, 1);
    for unlink in 1..=2 {
        pair.client.session.unlink(&10, 1, unlink);
        pair.client.session.link(10, 1);
    }
    pair.settle();
    let acks = [1, 2].map(|unlink| Delivery::UnlinkAck { from: 1, to: 10, unlink });
    assert_eq!(pair.client.deliveries(), acks);
    // None of them is lost although the process has acknowledged nothing yet.
    let link = || Delivery::Link { from: 1, to: 20 };
    let unlink = |unlink| Delivery::Unlink { from: 1, to: 20, unlink };
    assert_eq!(pair.server.deliveries(), [link(), unlink(1), link(), unlink(2), link()]);
    // Its end under the link before has no effect.
    pair.server.session.exit(&20, 1, Some(0), ExitReason::Panic);
    pair.settle();
    assert_eq!(pair.client.deliveries(), []);
    for unlink in [1, 2, 2] {
        pair.server.session.unlink_ack(&20, 1, unlink);
    }
    pair.server.session.exit(&20, 1, Some(0), ExitReason::Shutdown);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [exit(1, 10, ExitReason::Shutdown)]);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn both_sides_unlink_at_the_same_time() {
    let mut pair = pair();
    pair.client.session.link(10, 1);
    pair.settle();
    pair.server.deliveries();
    pair.client.session.unlink(&10, 1, 5);
    pair.server.session.unlink(&20, 1, 6);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [Delivery::UnlinkAck { from: 1, to: 10, unlink: 5 }]);
    assert_eq!(pair.server.deliveries(), [Delivery::UnlinkAck { from: 1, to: 20, unlink: 6 }]);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn acknowledges_unlink_without_link() {
    let mut pair = pair();
    pair.client.session.unlink(&10, 1, 3);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [Delivery::UnlinkAck { from: 1, to: 10, unlink: 3 }]);
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::Unlink { from: 8, to: 0, unlink: 9 });
    assert_eq!(lone.frames(), [Frame::UnlinkAck { from: 0, to: 8, unlink: 9 }]);
    // Any number will do, with a link and without.
    lone.feed(&Frame::Link { from: 8, to: 0 });
    lone.feed(&Frame::Unlink { from: 8, to: 0, unlink: 0 });
    lone.session.unlink_ack(&1, 8, 0);
    assert_eq!(lone.frames(), [Frame::UnlinkAck { from: 0, to: 8, unlink: 0 }]);
    lone.session.take_deliveries();
    lone.feed(&Frame::UnlinkAck { from: 8, to: 0, unlink: 9 });
    lone.feed(&Frame::Exit { from: 8, to: 0, taken: Some(1), reason: ExitReason::Kill });
    assert_eq!(lone.session.take_deliveries(), [], "nothing is linked");
}

#[test]
fn monitor_fires_once_unless_removed() {
    let mut pair = pair();
    for reference in [100, 200, 300] {
        pair.client.session.monitor(10, reference, 1);
    }
    pair.settle();
    let set: Vec<_> = (1..=3).map(|monitor| Delivery::Monitor { monitor, to: 20 }).collect();
    assert_eq!(pair.server.deliveries(), set);
    for reference in [200, 200, 999] {
        pair.client.session.demonitor(reference);
    }
    // Crosses the end of the process.
    for monitor in 1..=3 {
        pair.server.session.down(monitor, 0, ExitReason::Panic);
        pair.server.session.down(monitor, 0, ExitReason::Panic);
    }
    pair.settle();
    assert_eq!(
        pair.client.deliveries(),
        [down(100, 1, 10, ExitReason::Panic), down(300, 1, 10, ExitReason::Panic)]
    );
    assert_eq!(pair.server.deliveries(), []);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn exit_and_kill_need_their_rights() {
    let mut pair = pair();
    let exit_only = Rights { exit: true, ..Rights::default() };
    assert_eq!(pair.server.session.hand_out(21, exit_only), 2);
    assert_eq!(pair.server.session.hand_out(22, Rights::default()), 3);
    for far in 0..5 {
        pair.client.session.exit(&10, far, None, ExitReason::Kill);
        pair.client.session.exit(&10, far, None, ExitReason::Normal);
    }
    pair.settle();
    let seen: Vec<_> = pair
        .server
        .deliveries()
        .into_iter()
        .map(|delivery| match delivery {
            Delivery::Exit { to, reason, link: false, .. } => (to, reason),
            other => panic!("{other:?}"),
        })
        .collect();
    let (kill, killed, normal) = (ExitReason::Kill, ExitReason::Killed, ExitReason::Normal);
    assert_eq!(
        seen,
        [
            (2, killed.clone()),
            (2, normal.clone()),
            (20, kill),
            (20, normal.clone()),
            (21, killed),
            (21, normal)
        ]
    );
}

#[test]
fn untaken_exits_end_overload_and_others_do_not() {
    let most = Limits::default().max_untaken_exits;
    let mut lone = Lone::open(Side::Server);
    for _ in 0..3 * most {
        lone.feed(&Frame::Exit { from: 5, to: 0, taken: None, reason: ExitReason::Normal });
    }
    lone.session.check_untaken_exits(most, Limits::default().max_links as usize);
    assert_eq!(lone.ended(), None);
    assert_eq!(lone.session.take_deliveries().len(), 3 * most);
    lone.session.check_untaken_exits(most + 1, 0);
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn link_over_far_bound_gets_overload() {
    let mut lone = Lone::open(Side::Client);
    for n in 0..TERMS.max_links {
        lone.session.link(100 + n as u32, 0);
    }
    lone.frames();
    lone.session.link(7, 0);
    lone.session.monitor(7, 70, 5);
    assert_eq!(
        lone.session.take_deliveries(),
        [exit(0, 7, ExitReason::Overload), down(70, 5, 7, ExitReason::Overload)]
    );
    // The far owner is watched without a frame.
    lone.session.monitor(7, 71, 0);
    // One more to the same is none more.
    lone.session.link(100, 0);
    assert_eq!(lone.frames(), []);
    assert_eq!(lone.session.take_deliveries(), []);
    assert_eq!(lone.ended(), None);
    lone.feed(&Frame::Exit { from: 0, to: 1, taken: Some(0), reason: ExitReason::Normal });
    lone.session.monitor(7, 72, 5);
    assert_eq!(lone.frames(), [Frame::Monitor { monitor: 1 + 1, to: 5 }], "one place is free again");
}

#[test]
fn too_many_links_of_peer_end_overload() {
    let limits = Limits { max_links: 4, ..Limits::default() };
    for last in [Frame::Link { from: 3, to: 0 }, Frame::Monitor { monitor: 3, to: 0 }] {
        let mut lone = Lone::open_with(Side::Server, &limits);
        for n in 1..=2 {
            lone.feed(&Frame::Link { from: n, to: 0 });
            lone.feed(&Frame::Monitor { monitor: n, to: 0 });
        }
        lone.feed(&Frame::Link { from: 1, to: 0 });
        assert_eq!(lone.ended(), None);
        lone.feed(&last);
        assert_eq!(lone.ended(), Some(&ExitReason::Overload));
        assert_eq!(lone.session.entries(), 0);
    }
}

#[test]
fn misused_monitor_names_end_protocol() {
    for frames in [
        &[Frame::Monitor { monitor: 2, to: 0 }, Frame::Monitor { monitor: 2, to: 0 }][..],
        &[Frame::Monitor { monitor: 2, to: 0 }, Frame::Monitor { monitor: 1, to: 0 }],
        &[Frame::Demonitor { monitor: 1 }],
    ] {
        let mut lone = Lone::open(Side::Server);
        frames.iter().for_each(|frame| lone.feed(frame));
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol));
    }
}

#[test]
fn repeated_unlink_and_demonitor_are_harmless() {
    let mut pair = pair();
    for far in [0, 1, 99] {
        for n in 1..=5000 {
            pair.client.session.link(10, far);
            pair.client.session.unlink(&10, far, n);
            pair.client.session.monitor(10, n, far);
            pair.client.session.demonitor(n);
        }
        pair.settle();
        assert_eq!((pair.client.session.over(), pair.server.session.over()), (None, None));
        let acknowledged = |delivery: &Delivery<u32>| matches!(delivery, Delivery::UnlinkAck { .. });
        assert!(pair.client.deliveries().iter().all(acknowledged));
        for delivery in pair.server.deliveries() {
            if let Delivery::Unlink { from, to, unlink } = delivery {
                pair.server.session.unlink_ack(&to, from, unlink);
            }
        }
        assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
    }
}

#[test]
fn every_link_and_monitor_ends_once() {
    type Ending = (fn(&mut Pair), ExitReason);
    let endings: [Ending; 2] = [
        (Pair::lose, ExitReason::NoConnection),
        (|pair| pair.server.session.end(ExitReason::failed("x"), 0, Some(pair.now)), ExitReason::failed("x")),
    ];
    for (ending, reason) in endings {
        let mut pair = pair();
        pair.client.session.set_owner(Some(1), true);
        pair.client.session.link(10, 0);
        pair.client.session.link(11, 1);
        pair.client.session.monitor(12, 120, 0);
        pair.client.session.monitor(12, 121, 1);
        pair.settle();
        pair.client.deliveries();
        pair.server.deliveries();
        ending(&mut pair);
        pair.settle();
        let lost = ExitReason::NoConnection;
        assert_eq!(
            pair.client.deliveries(),
            [
                exit(0, 1, reason.clone()),
                exit(0, 10, reason.clone()),
                exit(1, 11, lost.clone()),
                down(120, 0, 12, reason.clone()),
                down(121, 1, 12, lost.clone()),
            ]
        );
        let mut at_server = pair.server.deliveries();
        // The first monitor needed no frame.
        assert_eq!(at_server.pop(), Some(Delivery::Demonitor { monitor: 2, to: 20 }));
        assert_eq!(at_server, [exit(1, 2, lost.clone()), exit(2, 20, lost.clone())]);
        // Afterwards all is out of reach, at once.
        pair.client.session.link(10, 0);
        pair.client.session.monitor(10, 5, 1);
        pair.client.session.unlink(&10, 0, 8);
        pair.settle();
        assert_eq!(
            pair.client.deliveries(),
            [
                exit(0, 10, lost.clone()),
                down(5, 1, 10, lost),
                Delivery::UnlinkAck { from: 0, to: 10, unlink: 8 }
            ]
        );
        assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
    }
}

#[test]
fn new_owner_takes_over_links_to_id_0() {
    let mut pair = pair();
    pair.client.session.link(10, 0);
    pair.settle();
    pair.server.deliveries();
    pair.server.session.set_owner(Some(2), false);
    assert_eq!(pair.server.session.take_deliveries(), [], "the same owner");
    pair.server.session.set_owner(Some(3), false);
    let told = [Delivery::Unlink { from: 1, to: 2, unlink: 1 }, Delivery::Link { from: 1, to: 3 }];
    assert_eq!(pair.server.session.take_deliveries(), told);
    pair.server.session.exit(&2, 1, Some(0), ExitReason::Panic);
    pair.server.session.unlink_ack(&2, 1, 1);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [], "the former owner is linked no more");
    pair.server.session.exit(&3, 1, Some(0), ExitReason::Shutdown);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [exit(0, 10, ExitReason::Shutdown)]);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn former_owner_keeps_the_links_it_has_made() {
    let mut pair = pair();
    for far in [0, 1] {
        pair.client.session.link(1, far);
    }
    pair.settle();
    let links = [Delivery::Link { from: 0, to: 2 }, Delivery::Link { from: 0, to: 20 }];
    assert_eq!(pair.server.deliveries(), links);
    pair.client.session.set_owner(Some(3), false);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [], "for the processes nothing has changed");
    // The far side gets to know the former owner under a name of its own.
    let seen = pair.server.deliveries();
    for to in [2, 20] {
        assert!(seen.contains(&Delivery::Link { from: 1, to }), "{seen:?}");
        assert!(seen.iter().any(|it| matches!(it, Delivery::Unlink { from: 0, to: by, .. } if *by == to)));
    }
    for delivery in seen {
        if let Delivery::Unlink { from, to, unlink } = delivery {
            pair.server.session.unlink_ack(&to, from, unlink);
        }
    }
    for far in [0, 1] {
        pair.client.session.exit(&1, far, Some(0), ExitReason::Panic);
    }
    pair.settle();
    let ends = [provoked(1, 2, ExitReason::Panic), provoked(1, 20, ExitReason::Panic)];
    assert_eq!(pair.server.deliveries(), ends);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn links_follow_new_owner_under_id_0() {
    let mut pair = pair();
    pair.client.session.link(10, 1);
    pair.settle();
    assert_eq!(pair.server.deliveries(), [Delivery::Link { from: 1, to: 20 }]);
    pair.client.session.set_owner(Some(10), false);
    pair.settle();
    let told = [Delivery::Link { from: 0, to: 20 }, Delivery::Unlink { from: 1, to: 20, unlink: 1 }];
    assert_eq!(pair.server.deliveries(), told);
    pair.server.session.unlink_ack(&20, 1, 1);
    pair.server.session.unlink(&20, 0, 9);
    pair.settle();
    let [Delivery::Unlink { from: 1, to: 10, unlink }] = pair.client.deliveries()[..] else { panic!() };
    pair.client.session.unlink_ack(&10, 1, unlink);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn unlink_on_its_way_when_the_owner_changes() {
    let mut pair = pair();
    pair.client.session.link(10, 0);
    pair.client.session.link(11, 0);
    pair.settle();
    pair.server.deliveries();
    // One is delivered to the old owner, the other was sent by it.
    pair.client.session.unlink(&10, 0, 4);
    pair.settle();
    assert_eq!(pair.server.deliveries(), [Delivery::Unlink { from: 1, to: 2, unlink: 1 }]);
    pair.server.session.unlink(&2, 2, 7);
    pair.server.session.set_owner(Some(3), false);
    pair.settle();
    assert_eq!(pair.server.deliveries(), [Delivery::UnlinkAck { from: 2, to: 2, unlink: 7 }]);
    pair.server.session.unlink_ack(&2, 1, 1);
    let at_client = pair.client.deliveries();
    assert!(at_client.contains(&Delivery::UnlinkAck { from: 0, to: 10, unlink: 4 }), "{at_client:?}");
    let Some(Delivery::Unlink { from: 0, to: 11, unlink }) = at_client.last() else {
        panic!("{at_client:?}")
    };
    pair.client.session.unlink_ack(&11, 0, *unlink);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn links_to_owner_without_process() {
    let mut pair = pair();
    pair.server.session.set_owner(None, false);
    pair.client.session.link(10, 0);
    pair.client.session.link(11, 0);
    pair.client.session.unlink(&11, 0, 1);
    pair.client.session.exit(&10, 0, None, ExitReason::Kill);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [Delivery::UnlinkAck { from: 0, to: 11, unlink: 1 }]);
    pair.server.session.end(ExitReason::Normal, 0, Some(pair.now));
    pair.settle();
    assert_eq!(pair.client.deliveries(), [exit(0, 10, ExitReason::Normal)]);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn link_made_outlives_the_link_of_ownership() {
    let mut pair = pair();
    pair.server.session.link(2, 0);
    pair.server.session.set_owner(Some(2), true);
    pair.settle();
    pair.server.deliveries();
    pair.server.session.set_owner(None, false);
    pair.settle();
    assert_eq!(pair.server.deliveries(), []);
    for delivery in pair.client.deliveries() {
        if let Delivery::Unlink { from, to, unlink } = delivery {
            pair.client.session.unlink_ack(&to, from, unlink);
        }
    }
    pair.client.session.end(ExitReason::Panic, 0, Some(pair.now));
    pair.settle();
    assert_eq!(pair.server.deliveries(), [exit(0, 2, ExitReason::Panic)]);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn former_owner_can_link_again() {
    let mut pair = pair();
    pair.server.session.set_owner(Some(2), true);
    pair.server.session.set_owner(None, false);
    let told = [Delivery::Link { from: 0, to: 2 }, Delivery::Unlink { from: 0, to: 2, unlink: 1 }];
    assert_eq!(pair.server.session.take_deliveries(), told);
    // To its table the `Unlink` that it has not seen takes this link away.
    pair.server.session.link(2, 0);
    pair.settle();
    assert_eq!(pair.client.deliveries(), []);
    pair.server.session.unlink_ack(&2, 0, 1);
    pair.server.session.link(2, 0);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [Delivery::Link { from: 2, to: 1 }]);
}

/// The processes of one end, each with a real table of links. What a process does takes two steps, first its table, then
/// the session, and so does the driver that tells it something: they are two threads, and the one may come between the
/// steps of the other.
struct Processes {
    tables: BTreeMap<u32, Links<u64>>,
    /// What was delivered and not looked at.
    late: VecDeque<Delivery<u32>>,
    doing: BTreeMap<u32, Doing>,
    acknowledging: Option<(u32, u64, u64)>,
}

/// The second step of a process.
enum Doing {
    Link { far: u64, ack: Option<u64> },
    Unlink { far: u64, unlink: u64 },
}

impl Processes {
    fn new(ids: impl Iterator<Item = u32>) -> Self {
        Self {
            tables: ids.map(|id| (id, Links::default())).collect(),
            late: VecDeque::new(),
            doing: BTreeMap::new(),
            acknowledging: None,
        }
    }

    fn link(&mut self, end: &mut End, process: u32, far: u64) {
        self.finish(end, process);
        let Some(table) = self.tables.get_mut(&process) else { return };
        let request = table.link(far);
        if request.link {
            self.doing.insert(process, Doing::Link { far, ack: request.ack });
        }
    }

    fn unlink(&mut self, end: &mut End, process: u32, far: u64) {
        self.finish(end, process);
        if let Some(unlink) = self.tables.get_mut(&process).and_then(|table| table.unlink(&far)) {
            self.doing.insert(process, Doing::Unlink { far, unlink });
        }
    }

    /// The second step.
    fn finish(&mut self, end: &mut End, process: u32) -> bool {
        match self.doing.remove(&process) {
            Some(Doing::Link { far, ack }) => {
                if let Some(ack) = ack {
                    end.session.unlink_ack(&process, far, ack);
                }
                end.session.link(process, far);
                self.sent(end, process, far);
            }
            Some(Doing::Unlink { far, unlink }) => {
                end.session.unlink(&process, far, unlink);
                self.sent(end, process, far);
            }
            None => return false,
        }
        true
    }

    fn sent(&mut self, end: &mut End, process: u32, far: u64) {
        if let Some(ack) = self.tables.get_mut(&process).and_then(|table| table.sent(&far)) {
            self.acknowledge(end, process, far, ack);
        }
    }

    fn die(&mut self, end: &mut End, process: u32) {
        self.finish(end, process);
        let Some(mut table) = self.tables.remove(&process) else { return };
        for far in table.part().links {
            end.session.exit(&process, far, Some(0), ExitReason::Shutdown);
        }
    }

    fn acknowledge(&mut self, end: &mut End, process: u32, far: u64, unlink: u64) {
        end.session.unlink_ack(&process, far, unlink);
        if let Some(table) = self.tables.get_mut(&process) {
            table.ack_delivered(&far, unlink);
        }
    }

    /// The driver tells a process the oldest delivery, or does the second step of that.
    fn tell(&mut self, end: &mut End) -> bool {
        self.late.extend(end.deliveries());
        if let Some((process, far, unlink)) = self.acknowledging.take() {
            self.acknowledge(end, process, far, unlink);
            return true;
        }
        let Some(delivery) = self.late.pop_front() else { return false };
        match delivery {
            Delivery::Link { from, to } => match self.tables.get_mut(&to) {
                Some(table) => table.handle_link(from),
                None => end.session.exit(&to, from, Some(0), ExitReason::NoProc),
            },
            Delivery::Unlink { from, to, unlink } => {
                let table = self.tables.get_mut(&to);
                if table.is_none_or(|table| table.handle_unlink(from, unlink)) {
                    self.acknowledging = Some((to, from, unlink));
                }
            }
            Delivery::UnlinkAck { from, to, unlink } => {
                if let Some(table) = self.tables.get_mut(&to) {
                    table.handle_unlink_ack(&from, unlink);
                }
            }
            Delivery::Exit { from, to, reason, link, .. } => {
                if let Some(table) = self.tables.get_mut(&to) {
                    let signal = ExitSignal { from: &from, reason: &reason, link, own: false };
                    assert_ne!(table.handle_exit(signal, true), ExitEffect::End(reason.clone()));
                }
            }
            other => panic!("{other:?}"),
        }
        true
    }
}

/// The link protocol end to end, over the border's table, with everything late that can be late.
#[test]
fn both_ends_agree_on_links_after_crossing() {
    const PROCESSES: u32 = 3;
    let limits = Limits::default();
    for seed in 0..300 {
        let mut pair = Pair::open_with(seed, &limits, &limits);
        let ids = || 1..=PROCESSES;
        for process in ids() {
            assert_eq!(pair.client.session.hand_out(process, ALL), u64::from(process));
            assert_eq!(pair.server.session.hand_out(process, ALL), u64::from(process));
        }
        let (mut at_client, mut at_server) = (Processes::new(ids()), Processes::new(ids()));
        for step in 0..200 {
            let (here, end) = match pair.seeded.below(2) {
                0 => (&mut at_client, &mut pair.client),
                _ => (&mut at_server, &mut pair.server),
            };
            let process = 1 + pair.seeded.below(PROCESSES as usize) as u32;
            let far = 1 + pair.seeded.below(PROCESSES as usize) as u64;
            match pair.seeded.below(20) {
                0..6 => here.link(end, process, far),
                6..12 => here.unlink(end, process, far),
                12..16 => drop(here.tell(end)),
                16 => drop(here.finish(end, process)),
                17..19 => pair.settle(),
                _ if step > 150 => here.die(end, process),
                _ => {}
            }
        }
        loop {
            pair.settle();
            let mut busy = at_client.tell(&mut pair.client) | at_server.tell(&mut pair.server);
            for process in ids() {
                busy |= at_client.finish(&mut pair.client, process);
                busy |= at_server.finish(&mut pair.server, process);
            }
            if !busy {
                break;
            }
        }
        let mut links = 0;
        for near in ids() {
            for far in ids() {
                let linked = |here: &Processes, process, far| {
                    here.tables.get(&process).is_some_and(|table| table.is_linked(&u64::from(far)))
                };
                let (a, b) = (linked(&at_client, near, far), linked(&at_server, far, near));
                assert_eq!(a, b, "seed {seed}: client's {near} and server's {far}");
                links += usize::from(a);
            }
        }
        for (here, end) in [(&at_client, &pair.client), (&at_server, &pair.server)] {
            assert_eq!(here.tables.values().map(Links::len).sum::<usize>(), links, "seed {seed}");
            // A near link and a link on the wire for each.
            assert_eq!(end.session.entries(), 2 * links, "seed {seed}");
        }
    }
}

#[test]
fn untaken_ends_of_links_end_overload() {
    let most = Limits::default().max_links as usize;
    let mut lone = Lone::open(Side::Server);
    for _ in 0..3 * most {
        lone.feed(&Frame::Link { from: 5, to: 0 });
        lone.feed(&Frame::Exit { from: 5, to: 0, taken: Some(0), reason: ExitReason::Normal });
    }
    lone.session.check_untaken_exits(0, most);
    assert_eq!(lone.ended(), None);
    lone.session.check_untaken_exits(0, most + 1);
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn own_links_cost_peer_nothing() {
    let mut lone = Lone::open(Side::Server);
    lone.session.hand_out(7, ALL);
    let most = Limits::default().max_links as usize;
    for _ in 0..2 * most {
        // One that is refused, whether by this end or by the other, is no doing of the peer's.
        lone.session.link(7, 5);
        lone.frames();
        lone.feed(&Frame::Exit { from: 5, to: 1, taken: Some(0), reason: ExitReason::NoProc });
    }
    assert_eq!(lone.ended(), None);
    let seen = lone.session.take_deliveries();
    assert_eq!(seen.len(), 2 * most);
    assert!(seen.iter().all(|delivery| matches!(delivery, Delivery::Exit { provoked: false, .. })));
}

#[test]
fn exit_in_front_of_the_acknowledgement_is_older() {
    for again in [false, true] {
        let mut lone = Lone::open(Side::Server);
        lone.session.link(7, 5);
        lone.session.unlink(&7, 5, 1);
        if again {
            lone.session.link(7, 5);
        }
        lone.frames();
        assert_eq!(lone.session.take_deliveries(), [Delivery::UnlinkAck { from: 5, to: 7, unlink: 1 }]);
        // The peer refused the first.
        lone.feed(&Frame::Exit { from: 5, to: 1, taken: Some(0), reason: ExitReason::NoProc });
        // And this it sent before the unlink came, which takes it away.
        lone.feed(&Frame::Link { from: 5, to: 1 });
        lone.feed(&Frame::UnlinkAck { from: 5, to: 1, unlink: 1 });
        assert_eq!(lone.session.take_deliveries(), []);
        assert_eq!(lone.session.entries() > 0, again);
        let reason = ExitReason::Panic;
        lone.feed(&Frame::Exit { from: 5, to: 1, taken: Some(0), reason: reason.clone() });
        let ending = again.then(|| exit(5, 7, reason));
        assert_eq!(lone.session.take_deliveries(), ending.into_iter().collect::<Vec<_>>());
        assert_eq!(lone.session.entries(), 0);
    }
}

#[test]
fn end_before_unlink_and_link_arrive() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::Link { from: 5, to: 0 });
    lone.feed(&Frame::Unlink { from: 5, to: 0, unlink: 8 });
    lone.feed(&Frame::Link { from: 5, to: 0 });
    lone.session.exit(&1, 5, Some(3), ExitReason::Panic);
    assert_eq!(
        lone.frames(),
        [Frame::UnlinkAck { from: 0, to: 5, unlink: 8 }],
        "it knows the first link only"
    );
    // What is left of it answers what it is told.
    lone.session.unlink_ack(&1, 5, 1);
    lone.session.exit(&1, 5, Some(0), ExitReason::NoProc);
    let end = Frame::Exit { from: 0, to: 5, taken: Some(0), reason: ExitReason::NoProc };
    assert_eq!((lone.frames(), lone.session.entries()), (vec![end], 0));
}

#[test]
fn link_refused_behind_unlink_ends_after_acknowledgement() {
    let mut lone = Lone::open(Side::Client);
    lone.session.hand_out(7, ALL);
    lone.feed(&Frame::Link { from: 5, to: 1 });
    for n in 0..TERMS.max_links {
        lone.session.link(100 + n as u32, 0);
    }
    lone.session.take_deliveries();
    lone.session.unlink(&7, 5, 1);
    lone.session.link(7, 5);
    let ack = Delivery::UnlinkAck { from: 5, to: 7, unlink: 1 };
    assert_eq!(lone.session.take_deliveries(), [ack, exit(5, 7, ExitReason::Overload)]);
    // The peer sent this before the unlink came.
    lone.feed(&Frame::Link { from: 5, to: 1 });
    lone.feed(&Frame::UnlinkAck { from: 5, to: 1, unlink: 1 });
    assert_eq!(lone.session.take_deliveries(), []);
    lone.feed(&Frame::Link { from: 5, to: 1 });
    assert_eq!(lone.session.take_deliveries(), [Delivery::Link { from: 5, to: 7 }], "and this one is new");
}

#[test]
fn bounds_acknowledgements_owed_to_peer() {
    let limits = Limits { max_links: 2, ..Limits::default() };
    let mut lone = Lone::open_with(Side::Server, &limits);
    for from in 1..=4 {
        lone.feed(&Frame::Link { from, to: 0 });
        lone.session.unlink(&1, from, from);
        lone.feed(&Frame::Exit { from, to: 0, taken: Some(0), reason: ExitReason::Normal });
        lone.session.check_untaken_exits(0, 0);
        assert_eq!(lone.ended(), None);
    }
    for from in 5..=6 {
        lone.feed(&Frame::Link { from, to: 0 });
        assert_eq!(lone.ended(), None);
    }
    lone.session.unlink(&1, 5, 5);
    lone.feed(&Frame::Exit { from: 5, to: 0, taken: Some(0), reason: ExitReason::Normal });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn mutual_relink_takes_place_at_both() {
    let limits = Limits { max_links: 1, ..Limits::default() };
    let mut pair = Pair::open_with(1, &limits, &limits);
    pair.client.session.set_owner(Some(1), false);
    assert_eq!(pair.server.session.hand_out(20, ALL), 1);
    assert_eq!(pair.client.session.hand_out(10, ALL), 1);
    pair.client.session.link(10, 1);
    pair.settle();
    for end in [&mut pair.client, &mut pair.server] {
        let process = if end.session.owner().is_some() { 10 } else { 20 };
        end.session.unlink(&process, 1, 1);
        end.session.link(process, 1);
    }
    pair.settle();
    for end in [&mut pair.client, &mut pair.server] {
        for delivery in end.deliveries() {
            if let Delivery::Unlink { from, to, unlink } = delivery {
                end.session.unlink_ack(&to, from, unlink);
            }
        }
    }
    // Neither has room for another, and so neither goes beyond what the other allows.
    pair.client.session.link(11, 1);
    pair.server.session.link(21, 1);
    pair.settle();
    assert_eq!(pair.client.deliveries(), [exit(1, 11, ExitReason::Overload)]);
    assert_eq!(pair.server.deliveries(), [exit(1, 21, ExitReason::Overload)]);
    assert_eq!((pair.client.session.over(), pair.server.session.over()), (None, None));
    pair.client.session.exit(&10, 1, Some(0), ExitReason::Normal);
    pair.settle();
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn end_during_unlink_frees_places_of_peer() {
    let limits = Limits { max_links: 1, ..Limits::default() };
    let mut lone = Lone::open_with(Side::Server, &limits);
    lone.session.hand_out(7, ALL);
    lone.session.hand_out(8, ALL);
    lone.session.link(7, 5);
    lone.session.unlink(&7, 5, 1);
    lone.session.link(7, 5);
    lone.session.exit(&7, 5, Some(0), ExitReason::Panic);
    lone.frames();
    // Sent before the unlink came, which takes it away; with the acknowledgement its place is free again.
    lone.feed(&Frame::Link { from: 5, to: 1 });
    lone.feed(&Frame::UnlinkAck { from: 5, to: 1, unlink: 1 });
    lone.feed(&Frame::Link { from: 6, to: 2 });
    assert_eq!(lone.ended(), None);
    assert_eq!(lone.session.take_deliveries().last(), Some(&Delivery::Link { from: 6, to: 8 }));
}

#[test]
fn acknowledges_unlink_whose_sender_ends() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::Link { from: 5, to: 0 });
    lone.feed(&Frame::Unlink { from: 5, to: 0, unlink: 8 });
    lone.feed(&Frame::Link { from: 5, to: 0 });
    lone.feed(&Frame::Exit { from: 5, to: 0, taken: Some(0), reason: ExitReason::Panic });
    assert_eq!(lone.session.take_deliveries().pop(), Some(provoked(5, 1, ExitReason::Panic)));
    lone.session.unlink_ack(&1, 5, 1);
    assert_eq!(lone.frames(), [Frame::UnlinkAck { from: 0, to: 5, unlink: 8 }], "once");
    assert_eq!(lone.session.entries(), 0);
}

#[test]
fn process_under_two_ids_is_told_once() {
    for first in [0, 1] {
        let mut lone = Lone::open(Side::Server);
        lone.session.hand_out(1, ALL);
        lone.feed(&Frame::Link { from: 5, to: 1 });
        lone.feed(&Frame::Link { from: 5, to: 0 });
        assert_eq!(lone.session.take_deliveries(), [Delivery::Link { from: 5, to: 1 }]);
        for to in [first, 1 - first] {
            lone.feed(&Frame::Exit { from: 5, to, taken: Some(0), reason: ExitReason::Panic });
        }
        assert_eq!(lone.session.take_deliveries(), [provoked(5, 1, ExitReason::Panic)]);
        let unlink = |frame: &Frame<'_>| matches!(frame, Frame::Unlink { .. });
        assert!(lone.frames().iter().all(unlink));
    }
}

/// What an owner does is done under id 0, at both ends and whoever began.
#[test]
fn owner_has_one_name() {
    let mut pair = pair();
    pair.client.session.link(1, 0);
    pair.server.session.link(2, 0);
    pair.client.session.exit(&1, 0, None, ExitReason::Panic);
    pair.settle();
    let signal = Delivery::Exit { from: 0, to: 2, reason: ExitReason::Panic, link: false, provoked: true };
    assert_eq!(pair.server.deliveries(), [signal], "both have linked, so it is linked already");
    // The side that was linked last takes the link back.
    pair.server.session.unlink(&2, 0, 9);
    pair.settle();
    assert_eq!(pair.server.deliveries(), [Delivery::UnlinkAck { from: 0, to: 2, unlink: 9 }]);
    let [Delivery::Unlink { from: 0, to: 1, unlink }] = pair.client.deliveries()[..] else { panic!() };
    pair.client.session.unlink_ack(&1, 0, unlink);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn far_owner_that_lives_is_out_of_reach() {
    let (panic, lost) = (ExitReason::Panic, ExitReason::NoConnection);
    let mut pair = pair();
    pair.server.session.link(2, 0);
    pair.server.session.link(20, 0);
    pair.server.session.monitor(21, 5, 0);
    pair.settle();
    pair.client.deliveries();
    pair.server.session.end(panic.clone(), 0, Some(pair.now));
    pair.settle();
    // To its owner, which let the session go, it is closed in good order.
    let at_server = [exit(0, 2, ExitReason::Normal), exit(0, 20, lost.clone()), down(5, 0, 21, lost.clone())];
    assert_eq!(pair.server.deliveries(), at_server);
    assert_eq!(pair.client.deliveries(), [exit(0, 1, panic), exit(1, 1, lost)]);
    assert_eq!(pair.server.session.over(), Some(&ExitReason::Normal));
}

#[test]
fn link_to_ended_process_takes_no_place() {
    let limits = Limits { max_links: 1, ..Limits::default() };
    let mut lone = Lone::open_with(Side::Server, &limits);
    lone.session.hand_out(7, ALL);
    lone.session.link(7, 5);
    lone.session.exit(&7, 5, Some(0), ExitReason::Panic);
    lone.frames();
    // It crossed that exit, which is the end of this link too: the peer may use the place for another.
    lone.feed(&Frame::Link { from: 5, to: 1 });
    lone.feed(&Frame::Link { from: 6, to: 0 });
    assert_eq!(lone.ended(), None);
    let answer = Frame::Exit { from: 1, to: 5, taken: Some(0), reason: ExitReason::NoProc };
    assert_eq!(lone.frames(), [answer]);
}

#[test]
fn demonitor_of_peer_reaches_process() {
    let mut lone = Lone::open(Side::Server);
    lone.session.hand_out(7, ALL);
    lone.feed(&Frame::Monitor { monitor: 1, to: 1 });
    lone.feed(&Frame::Demonitor { monitor: 1 });
    let told = [Delivery::Monitor { monitor: 1, to: 7 }, Delivery::Demonitor { monitor: 1, to: 7 }];
    assert_eq!(lone.session.take_deliveries(), told);
}

#[test]
fn relink_behind_unlink_keeps_place() {
    let limits = Limits { max_links: 1, ..Limits::default() };
    let mut lone = Lone::open_with(Side::Server, &limits);
    lone.session.hand_out(7, ALL);
    lone.session.hand_out(8, ALL);
    lone.feed(&Frame::Link { from: 5, to: 1 });
    lone.feed(&Frame::Unlink { from: 5, to: 1, unlink: 1 });
    lone.feed(&Frame::Link { from: 5, to: 1 });
    lone.session.unlink_ack(&7, 5, 1);
    assert_eq!(lone.ended(), None);
    lone.feed(&Frame::Link { from: 6, to: 2 });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}
