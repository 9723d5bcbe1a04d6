//! Processes inside messages: exports, imports, their counts, and peers that break the rules.
//!
//! Longer than other files, because good and hostile peers are played by the same two ends.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    lone::{Lone, TERMS},
    pair::{Numbers, Pair},
};
use crate::{
    ExitReason, Limits, Rights,
    handshake::Side,
    session::{
        AliasName, Delivery, Export, FarHandle, Handles, Inbound, InboundKind, Passing, ProcessMailbox,
        ReceivedHandle, SentHandles, Session, Unsendable, WindowChange, border::HANDLE_WINDOW,
    },
    wire::{Frame, HandleEntry, HandleTable, MessageHead, RefuseCode, Terms},
};

const WINDOW: u64 = HANDLE_WINDOW;

fn near(process: u32) -> Passing<u32> {
    Passing::Near(Export {
        process,
        alias: None,
        rights: Rights::default(),
        mailbox: ProcessMailbox(Arc::new(process)),
    })
}

fn alias(process: u32, number: u64, revoked: &Arc<AtomicBool>) -> Passing<u32> {
    let Passing::Near(export) = near(process) else { unreachable!() };
    Passing::Near(Export { alias: Some(AliasName { number, revoked: Arc::clone(revoked) }), ..export })
}

fn sender(id: u64) -> HandleEntry {
    HandleEntry::Sender { id, rights: Rights::default(), window: WINDOW }
}

fn with(message: MessageHead, entries: &[HandleEntry], payload: &'static [u8]) -> Frame<'static> {
    Frame::With { message, handles: HandleTable::new(entries, Box::leak(Box::default())), payload }
}

fn cast_with(entries: &[HandleEntry]) -> Frame<'static> {
    with(MessageHead::Cast { to: 0 }, entries, b"")
}

fn sent<const N: usize>(handles: [Passing<u32>; N]) -> SentHandles<u32> {
    handles.into_iter().collect()
}

/// Hands out `process`, and returns its id.
fn hand_out(lone: &mut Lone, process: u32) -> u64 {
    lone.session.try_cast_with(0, &mut Vec::new(), sent([near(process)])).unwrap();
    let [Frame::With { handles, .. }] = lone.frames()[..] else { panic!() };
    let Some(HandleEntry::Sender { id, .. }) = handles.entries().next() else { panic!() };
    id
}

/// Takes all messages of the owner.
fn take(session: &mut Session<Numbers>) -> Vec<Inbound> {
    let mut inbox = VecDeque::new();
    session.take_inbox(&mut inbox);
    inbox.into()
}

/// The far process that came with the next message of the owner.
fn imported(lone: &mut Lone) -> FarHandle {
    let messages = take(&mut lone.session);
    let [ReceivedHandle::Far(far, _)] = messages[0].handles.as_slice() else { panic!("{messages:?}") };
    far.clone()
}

fn released(lone: &mut Lone) -> Vec<Frame<'static>> {
    lone.session.release_dropped();
    lone.frames().into_iter().filter(|frame| matches!(frame, Frame::Release { .. })).collect()
}

#[test]
fn handed_out_process_is_reached_until_released() {
    let mut lone = Lone::open(Side::Server);
    let id = hand_out(&mut lone, 7);
    assert_eq!(lone.session.take_deliveries(), [Delivery::Watch { to: 7 }]);
    lone.feed(&Frame::Cast { to: id, payload: b"one" });
    let [Delivery::Message { to: 7, id: to, mailbox: Some(mailbox), .. }] =
        &lone.session.take_deliveries()[..]
    else {
        panic!()
    };
    assert_eq!((*to, mailbox.0.downcast_ref()), (id, Some(&7_u32)));
    assert_eq!(hand_out(&mut lone, 7), id, "one process, one id");
    lone.feed(&Frame::Release { id, count: 1 });
    assert_eq!(lone.session.take_deliveries(), [], "the second handle is on its way");
    lone.feed(&Frame::Release { id, count: 1 });
    assert_eq!(lone.session.take_deliveries(), [Delivery::Unwatch { to: 7 }]);
    assert_eq!((lone.ended(), lone.session.entries()), (None, 0));
    lone.feed(&Frame::Call { to: id, call: 1, left: 1000, payload: b"" });
    assert!(matches!(lone.frames()[..], [Frame::Refuse { call: 1, code: RefuseCode::Refused, .. }]));
    assert_ne!(hand_out(&mut lone, 7), id, "no id is used twice");
}

#[test]
fn wrong_releases_end_protocol() {
    type Wrong = fn(u64) -> Frame<'static>;
    let cases: [(&str, Wrong); 5] = [
        ("more than it got", |id| Frame::Release { id, count: 2 }),
        ("none", |id| Frame::Release { id, count: 0 }),
        ("what it never got", |id| Frame::Release { id: id + 1, count: 1 }),
        ("the owner", |_| Frame::Release { id: 0, count: 1 }),
        ("a guess", |_| Frame::Release { id: u64::MAX, count: 1 }),
    ];
    for (what, frame) in cases {
        let mut lone = Lone::open(Side::Server);
        let id = hand_out(&mut lone, 7);
        lone.feed(&frame(id));
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "{what}");
    }
    let mut lone = Lone::open(Side::Server);
    let id = hand_out(&mut lone, 7);
    for _ in 0..2 {
        lone.feed(&Frame::Release { id, count: 1 });
    }
    assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "twice");
}

#[test]
fn id_never_handed_out_ends_protocol() {
    for id in [1, 2, u64::MAX] {
        let mut lone = Lone::open(Side::Server);
        // Names a process for a link alone.
        lone.session.link(7, 0);
        lone.frames();
        lone.feed(&cast_with(&[HandleEntry::Receiver { id }]));
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "{id}");
    }
}

#[test]
fn returned_handle_is_the_process_itself() {
    let mut lone = Lone::open(Side::Server);
    let id = hand_out(&mut lone, 7);
    lone.feed(&cast_with(&[HandleEntry::Receiver { id }]));
    // The last handle of the peer may be gone before the message is decoded.
    lone.feed(&Frame::Release { id, count: 1 });
    let messages = take(&mut lone.session);
    let [ReceivedHandle::Near(mailbox)] = messages[0].handles.as_slice() else { panic!() };
    assert_eq!(mailbox.0.downcast_ref(), Some(&7_u32));
    lone.feed(&cast_with(&[HandleEntry::Receiver { id }]));
    assert!(matches!(take(&mut lone.session)[0].handles.as_slice(), [ReceivedHandle::Dead]), "released");
}

#[test]
fn import_is_released_with_its_last_handle() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&cast_with(&[sender(5)]));
    let far = imported(&mut lone);
    lone.feed(&cast_with(&[sender(5), sender(5)]));
    let again = take(&mut lone.session);
    drop(far);
    assert_eq!(released(&mut lone), [], "an undecoded message holds it");
    drop(again);
    assert_eq!(released(&mut lone), [Frame::Release { id: 5, count: 3 }]);
    assert_eq!(lone.session.entries(), 0);
    lone.feed(&cast_with(&[sender(5)]));
    drop(imported(&mut lone));
    assert_eq!(released(&mut lone), [Frame::Release { id: 5, count: 1 }], "counted anew");
}

#[test]
fn handle_that_comes_again_is_not_released() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&cast_with(&[sender(5)]));
    drop(imported(&mut lone));
    lone.feed(&cast_with(&[sender(5)]));
    assert_eq!(released(&mut lone), []);
    drop(imported(&mut lone));
    assert_eq!(released(&mut lone), [Frame::Release { id: 5, count: 2 }]);
}

#[test]
fn undelivered_message_releases_its_handles() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&with(MessageHead::Cast { to: 99 }, &[sender(5)], b""));
    assert_eq!(released(&mut lone), [Frame::Release { id: 5, count: 1 }], "to nobody");
    lone.session.give_up_receiving();
    lone.feed(&cast_with(&[sender(6)]));
    assert_eq!(released(&mut lone), [Frame::Release { id: 6, count: 1 }], "nobody receives");
    let call = lone.session.call(lone.now, lone.now + Duration::from_secs(9), &mut vec![1]).unwrap();
    lone.session.cancel_call(lone.now, call);
    lone.frames();
    lone.feed(&with(MessageHead::Reply { call }, &[sender(8)], b""));
    assert_eq!(released(&mut lone), [Frame::Release { id: 8, count: 1 }], "nobody waits");
}

#[test]
fn answer_brings_handles_and_takes_them() {
    let mut lone = Lone::open(Side::Client);
    let call = lone.session.call(lone.now, lone.now + Duration::from_secs(9), &mut vec![1]).unwrap();
    lone.frames();
    lone.feed(&with(MessageHead::Reply { call }, &[sender(5)], b"yes"));
    let Some((Ok(payload), handles)) = lone.session.poll_answer(call, |_| 0) else { panic!() };
    assert_eq!(&payload[..], b"yes");
    assert!(matches!(handles.as_slice(), [ReceivedHandle::Far(far, _)] if far.id() == 5));

    lone.feed(&Frame::Call { to: 0, call: 1, left: 1000, payload: b"" });
    lone.session.reply_with(1, &mut b"no".to_vec(), sent([near(7)])).unwrap();
    let frames = lone.frames();
    let [.., Frame::With { message: MessageHead::Reply { call: 1 }, payload: b"no", .. }] = frames[..] else {
        panic!("{frames:?}")
    };
}

#[test]
fn too_many_handles_are_refused_at_either_end() {
    let mut lone = Lone::open(Side::Server);
    for process in 10..14 {
        hand_out(&mut lone, process);
    }
    hand_out(&mut lone, 10);
    let entries = lone.session.entries();
    let refused = lone.session.try_cast_with(0, &mut Vec::new(), sent([near(10), near(14)]));
    assert_eq!(refused, Err(Unsendable::TooManyHandles { max: TERMS.max_handles }));
    assert_eq!((lone.frames(), lone.session.entries()), (vec![], entries), "nothing is left of it");

    let limits = Limits { max_handles: 2, ..Limits::default() };
    let mut lone = Lone::open_with(Side::Server, &limits);
    lone.feed(&cast_with(&[sender(1), sender(2), sender(1)]));
    assert_eq!(lone.ended(), None);
    lone.feed(&cast_with(&[sender(3)]));
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn long_flood_of_a_handle_ends_overload() {
    let mut lone = Lone::open(Side::Server);
    let (first, second) = (hand_out(&mut lone, 7), hand_out(&mut lone, 8));
    let held = lone.session.held();
    lone.feed(&Frame::Cast { to: first, payload: &[0; 60_000] });
    assert_eq!(lone.session.held(), held + 60_064);
    lone.feed(&Frame::Cast { to: second, payload: &[0; 60_000] });
    assert_eq!(lone.ended(), None, "each has its own window");
    lone.feed(&Frame::Cast { to: first, payload: &[0; 6_000] });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn one_message_longer_than_window_is_unreturned() {
    let long = vec![0; 100_000];
    let mut lone = Lone::open(Side::Server);
    let (first, second) = (hand_out(&mut lone, 7), hand_out(&mut lone, 8));
    lone.feed(&Frame::Cast { to: first, payload: &long });
    assert_eq!(lone.ended(), None);
    lone.session.give_back_to(first, 100_064);
    lone.feed(&Frame::Cast { to: second, payload: &long });
    assert_eq!(lone.ended(), None, "the first was taken");
    lone.feed(&Frame::Cast { to: first, payload: &long });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

/// Both ends agree on credit: a sender that waits for it is never ended for a lack of it.
#[test]
fn senders_to_handle_keep_within_its_credit() {
    let mut pair = Pair::open(3);
    pair.server.session.try_cast_with(0, &mut Vec::new(), sent([near(20), near(21)])).unwrap();
    pair.settle();
    pair.server.deliveries();
    let messages = take(&mut pair.client.session);
    let [ReceivedHandle::Far(first, _), ReceivedHandle::Far(second, _)] = messages[0].handles.as_slice()
    else {
        panic!()
    };
    let lens = [10, 70_000, 200, 65_000, 300_000, 1, 64 * 1024, 900_000, 40];
    let mut tickets = Vec::new();
    for (place, len) in lens.into_iter().cycle().take(60).enumerate() {
        let to = if place % 3 == 0 { second } else { first };
        let ticket =
            pair.client.session.cast_to(|| pair.now, to.id(), &mut vec![0; len], SentHandles::NONE).unwrap();
        tickets.extend(ticket.map(|ticket| (to.id(), ticket)));
    }
    let mut taken = 0;
    while taken < 60 {
        pair.settle();
        assert_eq!(pair.server.session.over(), None);
        let messages = pair.server.deliveries();
        assert!(!messages.is_empty(), "{taken} were taken");
        for delivery in messages {
            let Delivery::Message { id, message, .. } = delivery else { panic!() };
            taken += 1;
            pair.server.session.give_back_to(id, message.cost());
        }
    }
    for (far, ticket) in tickets {
        assert_eq!(pair.client.session.poll_cast_to(far, ticket, |_| 0), Some(Ok(())));
    }
    drop(messages);
    pair.client.session.release_dropped();
    pair.settle();
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn slow_handle_holds_up_no_other_call() {
    let mut lone = Lone::open(Side::Client);
    lone.feed(&cast_with(&[sender(5)]));
    let far = imported(&mut lone);
    let deadline = lone.now + Duration::from_secs(9);
    lone.session.cast_to(|| lone.now, 5, &mut vec![0; 65_000], SentHandles::NONE).unwrap();
    let slow = lone.session.call_to(lone.now, deadline, 5, &mut vec![1; 1000], SentHandles::NONE).unwrap();
    let late = lone.session.call_to(lone.now, deadline, 5, &mut vec![2; 1000], SentHandles::NONE).unwrap();
    let quick = lone.session.call(lone.now, deadline, &mut vec![3]).unwrap();
    let sent = |lone: &mut Lone| -> Vec<(u64, u8)> {
        let frames = lone.frames().into_iter();
        let calls = frames.filter_map(|frame| match frame {
            Frame::Call { call, payload, .. } => Some((call, payload[0])),
            _ => None,
        });
        calls.collect()
    };
    let [(first, 3)] = sent(&mut lone)[..] else { panic!() };
    lone.feed(&Frame::Credit { id: 5, total: 2 * WINDOW });
    let [(second, 1), (third, 2)] = sent(&mut lone)[..] else { panic!() };
    assert!(first < second && second < third, "ids of calls grow: {first} {second} {third}");
    lone.session.cancel_call_to(lone.now, 5, late);
    assert_eq!(lone.frames(), [Frame::Cancel { call: third }]);
    for call in [first, second, third] {
        lone.feed(&Frame::Reply { call, payload: b"" });
    }
    assert!(lone.session.poll_call(slow, |_| 0).is_some_and(|outcome| outcome.is_ok()));
    assert!(lone.session.poll_call(quick, |_| 0).is_some_and(|outcome| outcome.is_ok()));
    drop(far);
    assert_eq!(released(&mut lone), [Frame::Release { id: 5, count: 1 }]);
    assert_eq!((lone.ended(), lone.session.entries()), (None, 0));
}

#[test]
fn withdrawn_message_hands_out_nothing() {
    let mut lone = Lone::open(Side::Server);
    lone.session.try_cast(&mut vec![0; 1 << 18]).unwrap();
    lone.frames();
    let ticket = lone.session.cast_to(|| lone.now, 0, &mut Vec::new(), sent([near(7)])).unwrap().unwrap();
    lone.session.withdraw_cast_to(lone.now, 0, ticket);
    let deadline = lone.now + Duration::from_secs(1);
    lone.session.call_to(lone.now, deadline, 0, &mut Vec::new(), sent([near(7), near(8)])).unwrap();
    lone.wait(Duration::from_secs(2));
    let deliveries = lone.session.take_deliveries();
    let watched = deliveries.iter().filter(|it| matches!(it, Delivery::Watch { .. })).count();
    let unwatched = deliveries.iter().filter(|it| matches!(it, Delivery::Unwatch { .. })).count();
    assert_eq!((watched, unwatched), (3, 3));
    assert_eq!(lone.session.border.ids.handles(), 0);
}

#[test]
fn revoked_alias_is_dead_at_once() {
    let mut lone = Lone::open(Side::Server);
    let revoked = Arc::new(AtomicBool::new(false));
    lone.session.try_cast_with(0, &mut Vec::new(), sent([near(7), alias(7, 1000, &revoked)])).unwrap();
    lone.frames();
    for (monitor, to) in [(1, 1), (2, 2)] {
        lone.feed(&Frame::Monitor { monitor, to });
    }
    lone.feed(&Frame::Cast { to: 2, payload: b"before" });
    revoked.store(true, Ordering::Release);
    lone.session.revoke(1000);
    let frames = lone.frames();
    let down = Frame::Down { monitor: 2, taken: 0, reason: ExitReason::NoProc };
    assert_eq!(frames, [down, Frame::Credit { id: 2, total: u64::MAX }]);
    lone.feed(&Frame::Call { to: 2, call: 1, left: 1000, payload: b"" });
    lone.feed(&Frame::Monitor { monitor: 3, to: 2 });
    lone.feed(&cast_with(&[HandleEntry::Receiver { id: 2 }]));
    assert!(
        lone.frames().iter().any(|it| matches!(it, Frame::Refuse { call: 1, code: RefuseCode::Refused, .. }))
    );
    assert!(matches!(take(&mut lone.session)[0].handles.as_slice(), [ReceivedHandle::Dead]));
    lone.session.take_deliveries();
    lone.feed(&Frame::Call { to: 1, call: 2, left: 1000, payload: b"" });
    assert!(
        matches!(lone.session.take_deliveries()[..], [Delivery::Message { id: 1, .. }]),
        "the other name"
    );
    for id in [1, 2] {
        lone.feed(&Frame::Release { id, count: 1 });
    }
    assert_eq!((lone.ended(), lone.session.border.ids.handles()), (None, 0));
}

#[test]
fn alias_revoked_before_it_is_sent_is_dead() {
    let mut lone = Lone::open(Side::Server);
    let revoked = Arc::new(AtomicBool::new(true));
    lone.session.try_cast_with(0, &mut Vec::new(), sent([alias(7, 1000, &revoked)])).unwrap();
    lone.frames();
    lone.feed(&Frame::Monitor { monitor: 1, to: 1 });
    assert_eq!(lone.frames(), [Frame::Down { monitor: 1, taken: 0, reason: ExitReason::NoProc }]);
    lone.feed(&Frame::Release { id: 1, count: 1 });
    assert_eq!((lone.ended(), lone.session.entries()), (None, 0));
}

#[test]
fn ended_process_is_unreachable_until_released() {
    let mut lone = Lone::open(Side::Server);
    let id = hand_out(&mut lone, 7);
    lone.session.take_deliveries();
    lone.session.handed_out_ended(&7);
    assert_eq!(lone.frames(), [Frame::Credit { id, total: u64::MAX }], "no sender waits for its credit");
    lone.feed(&Frame::Monitor { monitor: 1, to: id });
    assert_eq!(lone.frames(), [Frame::Down { monitor: 1, taken: 0, reason: ExitReason::NoProc }]);
    assert_eq!(hand_out(&mut lone, 7), id);
    lone.feed(&Frame::Release { id, count: 2 });
    assert_eq!((lone.ended(), lone.session.entries()), (None, 0));
}

#[test]
fn owner_is_handed_out_under_another_id() {
    let mut lone = Lone::open(Side::Server);
    assert_eq!(hand_out(&mut lone, 1), 1, "never 0");
    lone.feed(&Frame::Cast { to: 1, payload: b"" });
    let deliveries = lone.session.take_deliveries();
    assert!(matches!(deliveries[..], [Delivery::Watch { to: 1 }, Delivery::Message { to: 1, id: 1, .. }]));
}

#[test]
fn rights_grow_and_are_not_more() {
    let mut lone = Lone::open(Side::Server);
    let Passing::Near(export) = near(7) else { unreachable!() };
    let only = |rights| Passing::Near(Export { rights, ..export.clone() });
    for (rights, now) in [
        (Rights::MONITOR, Rights::MONITOR),
        (Rights::default(), Rights::default()),
        (Rights::MONITOR, Rights::default()),
    ] {
        lone.session.try_cast_with(0, &mut Vec::new(), sent([only(rights)])).unwrap();
        let [Frame::With { handles, .. }] = lone.frames()[..] else { panic!() };
        let entry = handles.entries().next();
        assert_eq!(entry, Some(HandleEntry::Sender { id: 1, rights: now, window: WINDOW }));
    }
}

#[test]
fn end_of_session_forgets_every_handle() {
    let mut lone = Lone::open(Side::Server);
    hand_out(&mut lone, 7);
    lone.feed(&cast_with(&[sender(5)]));
    let far = imported(&mut lone);
    lone.session.take_deliveries();
    lone.session.break_off(ExitReason::Shutdown);
    assert_eq!(lone.session.take_deliveries(), [Delivery::Unwatch { to: 7 }]);
    drop(far);
    assert_eq!((released(&mut lone), lone.session.entries()), (vec![], 0));
    let late = lone.session.try_cast_with(5, &mut Vec::new(), sent([near(7)]));
    assert_eq!(late, Err(Unsendable::Ended(ExitReason::Shutdown)));
}

#[test]
fn dropped_handle_is_reported_once() {
    let lone = Lone::open(Side::Server);
    let list = Arc::clone(lone.session.dropped_handles());
    let told = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = Arc::clone(&told);
    list.notify(move || {
        seen.fetch_add(1, Ordering::Relaxed);
    });
    let mut lone = lone;
    lone.feed(&cast_with(&[sender(5), sender(6)]));
    drop(take(&mut lone.session));
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert_eq!(released(&mut lone).len(), 2);
}

#[test]
fn handles_without_limit_at_peer_are_not_sent() {
    let mut lone = Lone::new(Side::Client, &Limits::default());
    lone.session.start(&crate::session::OpenRequest::new(crate::payload::Codec::Raw, b"")).unwrap();
    let early = lone.session.try_cast_with(0, &mut Vec::new(), sent([near(7)]));
    assert_eq!(early, Err(Unsendable::TooManyHandles { max: 0 }));
    let terms = Terms { max_handles: 0, ..TERMS };
    lone.feed(&Frame::Started { terms, resume: None });
    let refused = lone.session.try_cast_with(0, &mut Vec::new(), sent([near(7)]));
    assert_eq!(refused, Err(Unsendable::TooManyHandles { max: 0 }));
    assert_eq!(lone.session.take_deliveries(), []);
}

#[test]
fn messages_of_kind_cast_keep_their_handles() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&with(MessageHead::Call { to: 0, call: 1, left: 1000 }, &[sender(5)], b"q"));
    let messages = take(&mut lone.session);
    assert_eq!(messages[0].kind, InboundKind::Call { call: 1 });
    assert_eq!(messages[0].cost(), 64 + 1 + 64, "a handle costs as much as a message");
    assert_ne!(messages[0].handles, Handles::default());
}

#[test]
fn own_end_is_final_for_handed_out_processes() {
    let mut lone = Lone::open(Side::Server);
    let id = hand_out(&mut lone, 7);
    lone.feed(&Frame::Call { to: id, call: 1, left: 1000, payload: b"" });
    lone.session.take_deliveries();
    lone.session.end(ExitReason::Normal, 0, None);
    let said = lone.frames();
    assert!(matches!(said[..], [Frame::Ended { taken: 2, .. }]), "the process may take the call: {said:?}");
    lone.feed(&Frame::Call { to: id, call: 2, left: 1000, payload: b"" });
    lone.feed(&Frame::Cast { to: id, payload: b"" });
    assert_eq!(lone.session.take_deliveries(), []);
}

/// A peer that sends to a handed-out process as fast as its credit allows, over a path with a round trip of 50 ms.
struct Flood {
    lone: Lone,
    id: u64,
    credit: u64,
    /// Frames of the receiver that arrive after half a round trip.
    pending: Vec<Frame<'static>>,
}

impl Flood {
    const RTT: Duration = Duration::from_millis(50);
    const PIECE: [u8; 8192] = [7; 8192];

    fn new(limits: &Limits) -> Self {
        let mut lone = Lone::open_with(Side::Server, limits);
        let id = hand_out(&mut lone, 7);
        lone.session.take_deliveries();
        Self { lone, id, credit: WINDOW, pending: Vec::new() }
    }

    /// Sends at most `most` bytes in a round trip, which the process takes at once. Returns the bytes sent.
    fn round(&mut self, most: u64) -> u64 {
        let (cost, mut sent) = (8192 + 64, 0);
        for frame in std::mem::take(&mut self.pending) {
            match frame {
                Frame::Credit { id, total } if id == self.id => self.credit = self.credit.max(total),
                Frame::Ping { token } => self.lone.feed(&Frame::Pong { token }),
                _ => {}
            }
        }
        let before = self.spent();
        while self.spent() + cost <= self.credit && sent + cost <= most {
            self.lone.feed(&Frame::Cast { to: self.id, payload: &Self::PIECE });
            assert_eq!(self.lone.ended(), None);
            self.lone.session.give_back_to(self.id, cost);
            sent = self.spent() - before;
        }
        self.lone.now += Self::RTT;
        self.pending = self.lone.frames();
        sent
    }

    fn spent(&self) -> u64 {
        self.lone.session.border.ids.returned_in_all()
    }

    /// Carries out the changes of windows with room for `room` bytes each. Returns the bytes given up.
    fn change(&mut self, room: u64) -> u64 {
        let mut less = 0;
        while let Some(change) = self.lone.session.take_window_change() {
            match change {
                WindowChange::Wanted { id, more } => self.lone.session.widen(id, more.min(room)),
                WindowChange::Narrowed(bytes) => less += bytes,
            }
        }
        less
    }
}

#[test]
fn window_of_handed_out_process_follows_path() {
    let mut flood = Flood::new(&Limits::default());
    let mut sent = 0;
    for _ in 0..100 {
        sent = flood.round(u64::MAX);
        assert_eq!(flood.change(u64::MAX), 0);
    }
    let max = (Limits::default().max_window_len - Limits::default().window_len) as u64;
    assert!(sent > max / 2, "{sent} bytes in a round trip");
    let extra = flood.lone.session.border.ids.extra();
    assert!(extra <= max);
    // The process is released, and the room comes back.
    flood.lone.feed(&Frame::Release { id: flood.id, count: 1 });
    assert_eq!(flood.change(0), extra);
}

#[test]
fn window_of_slow_process_stays() {
    let mut flood = Flood::new(&Limits::default());
    for _ in 0..100 {
        flood.round(WINDOW / 4);
        flood.change(u64::MAX);
    }
    assert_eq!(flood.lone.session.border.ids.extra(), 0);
}

#[test]
fn windows_of_idle_session_narrow() {
    let mut flood = Flood::new(&Limits::default());
    for _ in 0..10 {
        flood.round(u64::MAX);
        flood.change(u64::MAX);
    }
    let extra = flood.lone.session.border.ids.extra();
    assert!(extra > 0);
    flood.lone.wait(Limits::default().heartbeat_interval);
    // The credit that was granted is not taken back, so its room returns as it is used.
    assert_eq!(flood.change(0), 0);
    let mut returned = 0;
    for _ in 0..3 {
        flood.round(u64::MAX);
        returned += flood.change(0);
    }
    assert_eq!((returned, flood.lone.session.border.ids.extra()), (extra, 0));
}

#[test]
fn room_for_process_that_has_gone_returns() {
    let mut flood = Flood::new(&Limits::default());
    let change = loop {
        flood.round(u64::MAX);
        if let Some(change) = flood.lone.session.take_window_change() {
            break change;
        }
    };
    let WindowChange::Wanted { id, more } = change else { panic!("{change:?}") };
    flood.lone.feed(&Frame::Release { id, count: 1 });
    assert_eq!(flood.change(0), 0);
    flood.lone.session.widen(id, more);
    assert_eq!(flood.change(0), more);
}

#[test]
fn window_grows_only_as_far_as_there_is_room() {
    for (limits, room) in [
        (Limits { max_window_len: Limits::default().window_len, ..Limits::default() }, u64::MAX),
        (Limits::default(), 0),
    ] {
        let mut flood = Flood::new(&limits);
        for _ in 0..20 {
            flood.round(u64::MAX);
            flood.change(room);
        }
        assert_eq!(flood.lone.session.border.ids.extra(), 0);
    }
}

#[test]
fn long_message_fits_a_grown_window() {
    let mut flood = Flood::new(&Limits::default());
    for _ in 0..10 {
        flood.round(u64::MAX);
        flood.change(u64::MAX);
    }
    // The peer counts as unused what is a whole first window ahead.
    let long = vec![7; 300_000];
    flood.lone.feed(&Frame::Cast { to: flood.id, payload: &long });
    assert_eq!(flood.lone.ended(), None);
}
