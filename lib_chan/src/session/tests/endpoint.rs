use std::time::{Duration, Instant};

use super::pair::{Numbers, beginning};
use crate::{
    Limits,
    handshake::{SessionParameters, pair_in_memory},
    payload::Codec,
    session::{Batch, Delivery, Endpoint, Event, Inbound, Next, Rest, Who},
    wire::{Frame, Terms},
};

/// One open end, the server's; the test is its peer, its driver and its users.
struct Alone {
    endpoint: Endpoint<Numbers>,
    now: Instant,
}

/// What came of some input, in order.
#[derive(Debug, Default)]
struct Came {
    woken: Vec<u32>,
    deliveries: Vec<Delivery<u32>>,
    disowned: Vec<u32>,
    closed: bool,
}

fn inbound(delivery: Delivery<u32>) -> Inbound {
    match delivery {
        Delivery::Inbound(message) => message,
        other => panic!("{other:?}"),
    }
}

impl Alone {
    fn open(limits: &Limits) -> Self {
        let (_, server) = pair_in_memory(SessionParameters::from_limits(limits).unwrap(), [9; 32]).unwrap();
        let now = beginning();
        let mut alone = Self { endpoint: Endpoint::new(&server, limits, now), now };
        let terms = Terms { max_calls: 4, max_links: 4, max_handles: 0 };
        let (max_frame_len, window_len) = (1 << 20, 1 << 20);
        let codec = Codec::Raw as u8;
        alone.feed(&[Frame::Start {
            codec,
            terms,
            max_frame_len,
            window_len,
            resume: 0,
            interface: None,
            args: &[],
        }]);
        assert!(matches!(alone.endpoint.poll(Who::Driver, 0), Some(Event::Requested(_))));
        alone.endpoint.session_mut().accept(None, false);
        alone.came(Who::Driver, 0);
        alone.sent();
        alone
    }

    /// An end whose channel process 5 was given, with these messages delivered to it, and paused since they were.
    fn paused(frames: &[Frame<'_>]) -> (Self, Vec<Inbound>) {
        let limits = Limits { max_unsent_before_pause: 10, ..Limits::default() };
        let mut alone = Self::open(&limits);
        let reader = alone.endpoint.reader();
        alone.endpoint.own(Some(5), false);
        alone.endpoint.hand_over(reader);
        alone.feed(frames);
        let messages = alone.came(Who::Driver, 0).deliveries.into_iter().map(inbound).collect();
        alone.endpoint.session_mut().try_cast(&mut vec![0; 100]).unwrap();
        alone.came(Who::User, 0);
        (alone, messages)
    }

    fn feed(&mut self, frames: &[Frame<'_>]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.put(&mut bytes));
        self.endpoint.handle_bytes(1, self.now, &bytes, [0, 0]);
    }

    fn came(&mut self, who: Who, in_all: usize) -> Came {
        let mut came = Came::default();
        while let Some(event) = self.endpoint.poll(who, in_all) {
            match event {
                Event::Wake(waiter) => came.woken.push(waiter),
                Event::Deliver(deliveries) => came.deliveries.extend(deliveries),
                Event::Disown(owner) => came.disowned.push(owner),
                Event::Closed => came.closed = true,
                Event::Requested(_) => panic!("requested once"),
                Event::Window(_) => panic!("nothing measures a path here"),
                Event::Connection(state) => panic!("{state:?}"),
            }
        }
        came
    }

    /// The names of the frames that go out.
    fn sent(&mut self) -> Vec<String> {
        let (mut batch, mut names) = (Batch::default(), Vec::new());
        self.endpoint.transmit(1, self.now, &mut batch);
        let mut bytes = Vec::new();
        while !batch.chunk().is_empty() {
            let len = batch.chunk().len();
            bytes.extend_from_slice(batch.chunk());
            batch.advance(len);
            self.endpoint.handle_accepted(1, self.now, len);
        }
        let mut rest = bytes.as_slice();
        while let Some((len, body)) = rest.split_first_chunk::<4>() {
            let (body, behind) = body.split_at(u32::from_be_bytes(*len) as usize);
            names.push(format!("{:?}", Frame::parse(body).unwrap()));
            rest = behind;
        }
        names
    }
}

fn call(call: u64) -> Frame<'static> {
    Frame::Call { to: 0, call, left: 60_000, payload: b"?" }
}

#[test]
fn discards_fetched_messages_of_reader_given_up() {
    let mut alone = Alone::open(&Limits::default());
    let mut reader = alone.endpoint.reader();
    alone.feed(&[call(1), call(2), call(3)]);
    assert!(alone.endpoint.fetch(&mut reader, |_| 0));
    assert!(matches!(reader.take(), Next::Message(..)));
    alone.feed(&[call(4)]);
    alone.endpoint.live_by_remotes(reader);
    let sent = alone.sent();
    let refused =
        |call: u64| sent.iter().position(|frame| frame.starts_with(&format!("Refuse {{ call: {call},")));
    assert_eq!(refused(1), None, "whoever took it answers it");
    assert!(refused(2) < refused(3) && refused(3) < refused(4) && refused(2).is_some(), "{sent:?}");
}

#[test]
fn wakes_a_sleeping_driver_once_for_output() {
    let mut alone = Alone::open(&Limits::default());
    alone.endpoint.rise();
    let armed = alone.endpoint.sleep(7, true, None);
    assert!(matches!(armed, Rest::Until(Some(_))));
    assert!(alone.came(Who::Driver, 0).woken.is_empty());
    alone.endpoint.session_mut().try_cast(&mut vec![1]).unwrap();
    assert_eq!(alone.came(Who::User, 0).woken, [7]);
    alone.endpoint.session_mut().try_cast(&mut vec![1]).unwrap();
    assert!(alone.came(Who::User, 0).woken.is_empty(), "it is awake");
}

#[test]
fn wakes_no_driver_whose_stream_takes_nothing() {
    let mut alone = Alone::open(&Limits::default());
    alone.endpoint.sleep(7, false, None);
    alone.endpoint.session_mut().try_cast(&mut vec![1]).unwrap();
    assert!(alone.came(Who::User, 0).woken.is_empty());
    alone.endpoint.session_mut().break_off(crate::ExitReason::Shutdown);
    assert_eq!(alone.came(Who::User, 0).woken, [7], "but the end is something else");
}

#[test]
fn driver_gets_deliveries_until_it_leaves() {
    let mut alone = Alone::open(&Limits::default());
    alone.endpoint.own(Some(5), true);
    assert!(alone.came(Who::User, 0).deliveries.is_empty());
    assert_eq!(alone.came(Who::Driver, 0).deliveries.len(), 1);
    alone.endpoint.own(Some(6), true);
    assert!(!alone.endpoint.leave(), "something is to be delivered first");
    let came = alone.came(Who::Driver, 0);
    assert!(came.closed && came.deliveries.len() >= 2, "{came:?}");
    assert!(alone.endpoint.leave());
    alone.endpoint.own(Some(6), true);
    let came = alone.came(Who::User, 0);
    assert_eq!((came.deliveries.len(), came.disowned), (2, vec![6]), "linked, and told of the end");
}

#[test]
fn holds_messages_while_too_much_is_unsent() {
    let (mut alone, letters) = Alone::paused(&[call(1), call(2)]);
    let claims = std::sync::Arc::clone(alone.endpoint.claims());
    assert!(claims.is_paused());
    for letter in letters {
        assert_eq!(alone.endpoint.take_turn(letter), None);
    }
    alone.sent();
    let places = alone.came(Who::Driver, 0).deliveries;
    assert!(!claims.is_paused() && places.len() == 2 && !claims.is_straight());
    let taken = places.into_iter().map(|place| alone.endpoint.take_turn(inbound(place)).unwrap().number);
    assert!(taken.is_sorted());
    assert!(claims.is_straight(), "nothing is held any more");
}

#[test]
fn long_answers_that_take_turns_pause_nobody() {
    let limits = Limits::default();
    let mut alone = Alone::open(&limits);
    let mut reader = alone.endpoint.reader();
    alone.feed(&[call(1), call(2), call(3), call(4), call(5), call(6)]);
    assert!(alone.endpoint.fetch(&mut reader, |_| 0));
    let long = limits.max_frame_len - 1024;
    for number in 1..=4 {
        assert!(matches!(reader.take(), Next::Message(..)));
        alone.endpoint.session_mut().reply(number, &mut vec![0; long]);
        alone.came(Who::User, 0);
        assert!(!alone.endpoint.claims().is_paused(), "after {number}");
    }
    // Where the program is short of memory, they count.
    alone.came(Who::User, limits.max_held_in_all / 2 + 1);
    assert!(alone.endpoint.claims().is_paused());
    alone.came(Who::User, 0);
    assert!(!alone.endpoint.claims().is_paused());
    alone.endpoint.session_mut().reply(5, &mut vec![0; long]);
    alone.came(Who::User, 0);
    assert!(alone.endpoint.claims().is_paused());
}

/// The session of an honest peer that asks for many long answers waits, and does not end.
#[test]
fn pause_comes_before_overload() {
    for limits in [
        Limits { max_unsent: 1 << 20, ..Limits::default() },
        Limits { max_frame_len: 16 << 20, ..Limits::default() },
    ] {
        let mut alone = Alone::open(&limits);
        let calls: Vec<_> = (1..=20).map(call).collect();
        alone.feed(&calls);
        for number in 1..=20 {
            if alone.endpoint.claims().is_paused() {
                break;
            }
            // The longest that the peer accepts.
            alone.endpoint.session_mut().reply(number, &mut vec![0; (1 << 20) - 1024]);
            alone.came(Who::User, 0);
        }
        assert!(alone.endpoint.claims().is_paused());
        assert_eq!(alone.endpoint.over(), None);
    }
}

#[test]
fn keeps_no_held_message_of_a_dead_owner() {
    let (mut alone, letters) = Alone::paused(&[call(1), call(2)]);
    let mut letters = letters.into_iter();
    assert_eq!(alone.endpoint.take_turn(letters.next().unwrap()), None);
    alone.endpoint.let_go(alone.now, crate::ExitReason::Normal);
    assert_eq!(alone.endpoint.take_turn(letters.next().unwrap()), None, "its thread was about to take it");
    alone.endpoint.handle_loss(1, alone.now);
    alone.came(Who::Driver, 0);
    assert_eq!(alone.endpoint.entries(), 0);
}

#[test]
fn drops_held_messages_of_owner_that_dies() {
    let (mut alone, letters) = Alone::paused(&[call(1)]);
    for letter in letters {
        assert_eq!(alone.endpoint.take_turn(letter), None);
    }
    alone.endpoint.handle_loss(1, alone.now);
    let came = alone.came(Who::Driver, 0);
    assert!(came.closed && came.disowned.is_empty(), "a message is held for it: {came:?}");
    alone.endpoint.let_go(alone.now, crate::ExitReason::Normal);
    assert_eq!(alone.came(Who::User, 0).disowned, [5]);
    assert_eq!(alone.endpoint.entries(), 0);
}

#[test]
fn closed_claims_give_nothing_and_name_last() {
    let mut alone = Alone::open(&Limits::default());
    let mut reader = alone.endpoint.reader();
    alone.feed(&[call(1), call(2)]);
    assert!(alone.endpoint.fetch(&mut reader, |_| 0));
    let Next::Message(first, _) = reader.take() else { panic!("a message") };
    alone.endpoint.let_go(alone.now, crate::ExitReason::Normal);
    assert!(matches!(reader.take(), Next::Closed));
    let sent = alone.sent();
    assert!(sent.last().unwrap().starts_with(&format!("Ended {{ taken: {},", first.number)), "{sent:?}");
}

#[test]
fn stopped_end_blames_nobody_for_its_pause() {
    let limits = Limits::default();
    for late in [0, 1000] {
        let mut alone = Alone::open(&limits);
        let Rest::Until(Some(until)) = alone.endpoint.sleep(7, true, None) else { panic!("it sleeps") };
        // Three heartbeats without a byte, which this end did or did not sleep through.
        alone.now = until;
        if late == 0 {
            alone.endpoint.handle_timeout(alone.now);
            let Rest::Until(Some(until)) = alone.endpoint.sleep(7, false, None) else { panic!("it sleeps") };
            alone.now = until;
        }
        alone.now += Duration::from_secs(late);
        let dead = alone.endpoint.handle_timeout(alone.now);
        assert_eq!(dead, late == 0);
        if late > 0 {
            assert_eq!(alone.sent(), ["Ping { token: 0 }"]);
            alone.now += 3 * limits.heartbeat_interval;
            assert!(alone.endpoint.handle_timeout(alone.now), "the peer gets its time once");
        }
    }
}

#[test]
fn all_sessions_together_stay_within_bound() {
    const SOURCES: usize = 200;
    let limits = Limits { max_held_in_all: 8 << 20, max_sessions: SOURCES, ..Limits::default() };
    let mut frame = Vec::new();
    Frame::Cast { to: 0, payload: &vec![0; 1_000_000] }.put(&mut frame);
    let mut sources: Vec<Alone> = (0..SOURCES).map(|_| Alone::open(&limits)).collect();
    let step = Endpoint::<Numbers>::held_step(&limits);
    let (mut counted, mut most) = (vec![0; SOURCES], 0);
    // Each sends almost all of a frame, in turn.
    for piece in frame[..frame.len() - 1].chunks(4096) {
        for (place, source) in sources.iter_mut().enumerate() {
            source.endpoint.handle_bytes(1, source.now, piece, [0, 0]);
            counted[place] = source.endpoint.held() & !(step - 1);
            source.came(Who::Driver, counted.iter().sum());
            counted[place] = source.endpoint.held() & !(step - 1);
        }
        most = most.max(sources.iter().map(|source| source.endpoint.held()).sum());
    }
    assert!(most <= limits.max_held_in_all, "{most}");
    assert!(most > limits.max_held_in_all / 2, "they hold much: {most}");
    let ended = sources.iter().filter(|source| source.endpoint.over().is_some()).count();
    assert!(ended > 0 && ended < SOURCES, "{ended}");
}

#[test]
fn small_holder_survives_where_memory_is_short() {
    let limits = Limits::default();
    let mut alone = Alone::open(&limits);
    alone.feed(&[call(1)]);
    alone.came(Who::Driver, limits.max_held_in_all);
    assert_eq!(alone.endpoint.over(), None);
    alone.endpoint.handle_bytes(1, alone.now, &(100_000_u32).to_be_bytes(), [0, 0]);
    alone.endpoint.handle_bytes(1, alone.now, &[2; 90_000], [0, 0]);
    alone.came(Who::Driver, limits.max_held_in_all / 2);
    assert_eq!(alone.endpoint.over(), None);
    alone.came(Who::Driver, limits.max_held_in_all);
    assert_eq!(alone.endpoint.over(), Some(&crate::ExitReason::Overload));
}

#[test]
fn largest_holders_end_before_small_ones() {
    let limits = Limits::default();
    let lives = |held: u32, of_64: usize| {
        let mut alone = Alone::open(&limits);
        alone.endpoint.handle_bytes(1, alone.now, &1_000_001_u32.to_be_bytes(), [0, 0]);
        alone.endpoint.handle_bytes(1, alone.now, &vec![2; held as usize], [0, 0]);
        alone.came(Who::Driver, limits.max_held_in_all / 64 * of_64);
        alone.endpoint.over().is_none()
    };
    // Shares at 33/64, 38/64, 42/64 and 49/64 of the total.
    for (held, lived) in [
        (1_000_000, [true, false, false, false]),
        (200_000, [true, true, false, false]),
        (30_000, [true, true, true, false]),
        (4_000, [true, true, true, true]),
    ] {
        assert_eq!([33, 38, 42, 49].map(|of_64| lives(held, of_64)), lived, "{held}");
    }
}
