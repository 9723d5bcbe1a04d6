use super::{lone::Lone, pair::Numbers};
use crate::{
    ExitReason, Limits, Rights,
    handshake::Side,
    session::{Delivery, Inbound, Session},
    wire::Frame,
};

/// All that can be seen of a session from this side.
type Seen = (Vec<Inbound>, Vec<Delivery<u32>>, Vec<Frame<'static>>, Option<ExitReason>);

fn look(lone: &mut Lone) -> Seen {
    let mut inbox = std::collections::VecDeque::new();
    lone.session.take_inbox(&mut inbox);
    let deliveries = lone.session.take_deliveries();
    (inbox.into(), deliveries, lone.frames(), lone.ended().cloned())
}

fn fresh() -> Lone {
    let mut lone = Lone::open(Side::Server);
    lone.session.hand_out(7, Rights { link: true, exit: true, ..Rights::default() });
    lone
}

/// A bit of everything.
fn bytes(last: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in [
        Frame::Cast { to: 0, payload: b"first" },
        Frame::Link { from: 1, to: 1 },
        Frame::Call { to: 0, call: 1, left: 1000, payload: &[7; 300] },
        Frame::Ack { number: 0 },
        Frame::Cast { to: 1, payload: b"to a process" },
        Frame::Monitor { monitor: 1, to: 55 },
        Frame::Cast { to: 0, payload: b"" },
        Frame::Cancel { call: 1 },
        Frame::Exit { from: 1, to: 1, taken: Some(3), reason: ExitReason::failed("x") },
    ] {
        frame.put(&mut bytes);
    }
    bytes.extend_from_slice(last);
    bytes
}

#[test]
fn frames_cut_anywhere_are_the_same_frames() {
    let mut ended = Vec::new();
    Frame::Ended { taken: 0, reason: ExitReason::Shutdown }.put(&mut ended);
    let lasts: [&[u8]; 5] = [b"", &ended, &[0xff; 8], &[0, 0, 0, 0], &[0, 0, 0, 2, 0x77, 0]];
    for last in lasts {
        let bytes = bytes(last);
        let mut whole = fresh();
        whole.session.handle_bytes(whole.now, &bytes);
        let expected = look(&mut whole);
        assert_eq!(expected.0.len(), 3);
        for cut in 0..=bytes.len() {
            let mut lone = fresh();
            lone.session.handle_bytes(lone.now, &bytes[..cut]);
            lone.session.handle_bytes(lone.now, &bytes[cut..]);
            assert_eq!(look(&mut lone), expected, "cut at {cut} before {last:?}");
        }
        for size in [1, 2, 3, 5, 7] {
            let mut lone = fresh();
            bytes.chunks(size).for_each(|piece| lone.session.handle_bytes(lone.now, piece));
            assert_eq!(look(&mut lone), expected, "pieces of {size} before {last:?}");
        }
    }
}

/// Memory that holds the start of a frame.
fn kept(session: &Session<Numbers>) -> usize {
    session.attachment.partial.capacity()
}

#[test]
fn refuses_too_long_frame_by_length() {
    let limits = Limits::default();
    for head in [&[0, 0x10, 0, 1][..], &[0xff; 4], &[0, 0x10, 0, 1, 3, 0, 1, 2, 3]] {
        let mut lone = Lone::open(Side::Server);
        lone.session.handle_bytes(lone.now, head);
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol));
        assert_eq!(kept(&lone.session), 0);
    }
    let mut lone = Lone::open(Side::Server);
    lone.session.handle_bytes(lone.now, &(limits.max_frame_len as u32).to_be_bytes());
    assert_eq!(lone.ended(), None, "the longest that may be");
}

#[test]
fn memory_follows_received_bytes() {
    let mut lone = Lone::open(Side::Server);
    let len = Limits::default().max_frame_len;
    lone.session.handle_bytes(lone.now, &(len as u32).to_be_bytes());
    lone.session.handle_bytes(lone.now, &[3, 0]);
    let mut came = 6;
    for size in (1..2000).cycle() {
        assert!(kept(&lone.session) <= 2 * came.max(32), "{} for {came}", kept(&lone.session));
        assert!(kept(&lone.session) <= len + 4);
        let size = size.min(len + 4 - came);
        lone.session.handle_bytes(lone.now, &vec![9; size]);
        came += size;
        if came == len + 4 {
            break;
        }
    }
    let (inbox, ..) = look(&mut lone);
    assert_eq!(inbox[0].payload, vec![9; len - 2]);
    assert_eq!(kept(&lone.session), 0);
}

#[test]
fn nothing_is_heard_after_the_end() {
    let mut lone = Lone::open(Side::Server);
    let mut bytes = Vec::new();
    Frame::Ended { taken: 0, reason: ExitReason::Normal }.put(&mut bytes);
    Frame::Cast { to: 0, payload: b"ghost" }.put(&mut bytes);
    bytes.extend([1, 2, 3]);
    lone.session.handle_bytes(lone.now, &bytes);
    lone.session.handle_bytes(lone.now, &bytes);
    assert!(!lone.session.has_inbox());
    assert_eq!(kept(&lone.session), 0);
    assert_eq!(lone.ended(), Some(&ExitReason::Normal));
}
