use std::time::Duration;

use super::{lone::Lone, pair::Pair};
use crate::{ExitReason, Limits, handshake::Side, wire::Frame};

const H: Duration = Duration::from_secs(15);

#[test]
fn two_idle_ends_live_for_ever() {
    let mut pair = Pair::open(1);
    pair.advance(Duration::from_secs(24 * 3600));
    assert_eq!((pair.client.session.over(), pair.server.session.over()), (None, None));
}

#[test]
fn pings_silent_peer_once_before_its_loss() {
    let mut lone = Lone::open(Side::Server);
    let start = lone.now;
    assert_eq!(lone.session.poll_timeout(), Some(start + H));
    lone.wait(H);
    assert_eq!(lone.frames(), [Frame::Ping { token: 0 }]);
    assert_eq!(lone.session.poll_timeout(), Some(start + 3 * H));
    lone.wait(H);
    assert_eq!(lone.frames(), []);
    lone.wait(H - Duration::from_millis(1));
    assert_eq!(lone.ended(), None);
    lone.wait(Duration::from_millis(1));
    assert_eq!(lone.ended(), Some(&ExitReason::NoConnection));
}

#[test]
fn one_byte_is_a_sign_of_life() {
    let mut lone = Lone::open(Side::Server);
    lone.wait(3 * H - Duration::from_secs(1));
    lone.session.handle_bytes(lone.now, &[0]);
    lone.wait(3 * H - Duration::from_secs(1));
    assert_eq!(lone.ended(), None);
}

#[test]
fn both_ends_notice_cut_connection() {
    let mut pair = Pair::open(2);
    pair.advance(Duration::from_secs(7));
    pair.cut = true;
    pair.advance(3 * H);
    let lost = Some(&ExitReason::NoConnection);
    assert_eq!((pair.client.session.over(), pair.server.session.over()), (lost, lost));
}

#[test]
fn peer_that_takes_nothing_is_lost_after_minute() {
    let limits = Limits::default();
    for (took, dies) in [(limits.min_accepted - 1, true), (limits.min_accepted, false)] {
        let mut lone = Lone::open(Side::Server);
        let now = lone.now;
        lone.session.cast(now, &mut vec![0; 200_000]).unwrap();
        lone.fetch();
        lone.session.handle_accepted(now, took);
        let mut left = limits.stall_timeout;
        while !left.is_zero() {
            assert_eq!(lone.ended(), None);
            lone.feed(&Frame::Pong { token: 0 });
            lone.wait(H);
            left -= H;
        }
        assert_eq!(lone.ended().is_some(), dies);
    }
}

#[test]
fn sends_ack_after_8192_frames_or_256_kib() {
    let mut lone = Lone::open(Side::Server);
    for _ in 0..8190 {
        lone.feed(&Frame::GoAway);
    }
    assert!(!lone.session.has_output());
    lone.feed(&Frame::GoAway);
    assert_eq!(lone.frames(), [Frame::Ack { number: 8192 }], "with the Start");
    lone.feed(&Frame::Cast { to: 0, payload: &vec![0; 256 * 1024 - 3] });
    assert!(!lone.session.has_output());
    lone.feed(&Frame::GoAway);
    assert_eq!(lone.frames(), [Frame::Ack { number: 8194 }]);
    lone.feed(&Frame::Credit { id: 0, total: 1 });
    assert_eq!(lone.frames(), []);
}

#[test]
fn ack_rides_along_after_an_eighth() {
    let mut lone = Lone::open(Side::Server);
    for _ in 0..1022 {
        lone.feed(&Frame::GoAway);
    }
    lone.session.go_away();
    assert_eq!(lone.frames(), [Frame::GoAway]);
    lone.feed(&Frame::GoAway);
    assert!(!lone.session.has_output());
    lone.session.go_away();
    assert_eq!(lone.frames(), [Frame::GoAway, Frame::Ack { number: 1024 }], "with the Start");
    lone.session.go_away();
    assert_eq!(lone.frames(), [Frame::GoAway]);
}

#[test]
fn pong_carries_token_after_everything_before() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::GoAway);
    lone.feed(&Frame::Ping { token: 42 });
    assert_eq!(lone.frames(), [Frame::Ack { number: 2 }, Frame::Pong { token: 42 }]);
}

#[test]
fn flush_waits_until_everything_sent_has_come() {
    let mut pair = Pair::open(3);
    let now = pair.now;
    let nothing = pair.client.session.flush();
    pair.settle();
    assert_eq!(pair.client.session.poll_flushed(nothing, || 0), Some(Ok(())));
    for _ in 0..3 {
        pair.client.session.cast(now, &mut vec![1; 100]).unwrap();
    }
    let number = pair.client.session.flush();
    assert_eq!(pair.client.session.poll_flushed(number, || 9), None);
    pair.settle();
    assert_eq!(pair.client.woken(), [9]);
    assert_eq!(pair.client.session.poll_flushed(number, || 9), Some(Ok(())));
    assert_eq!(pair.server.take().len(), 3);
}

#[test]
fn dropped_flush_leaves_nothing_behind() {
    let mut pair = Pair::open(3);
    let now = pair.now;
    pair.settle();
    pair.client.session.cast(now, &mut vec![1; 100]).unwrap();
    let before = pair.client.session.entries();
    let flush = pair.client.session.flush();
    assert_eq!(pair.client.session.poll_flushed(flush, || 9), None);
    pair.client.session.forget_flush(flush);
    assert_eq!(pair.client.session.entries(), before);
}

#[test]
fn flush_overtaken_by_end_is_not_done() {
    let mut pair = Pair::open(3);
    let now = pair.now;
    pair.client.session.cast(now, &mut vec![1]).unwrap();
    let number = pair.client.session.flush();
    assert_eq!(pair.client.session.poll_flushed(number, || 9), None);
    // The far end's last word is under way, and says that it took nothing.
    pair.server.session.end(ExitReason::Shutdown, 0, Some(now + H));
    pair.settle();
    assert_eq!(pair.client.woken(), [9]);
    assert_eq!(pair.client.session.poll_flushed(number, || 9), Some(Err(ExitReason::Shutdown)));
}

#[test]
fn the_answer_to_the_last_word_acknowledges_all() {
    let mut pair = Pair::open(3);
    let now = pair.now;
    pair.client.session.cast(now, &mut vec![1]).unwrap();
    pair.client.session.end(ExitReason::Normal, 0, Some(now + H));
    let number = pair.client.session.flush();
    assert_eq!(pair.client.session.poll_flushed(number, || 9), None);
    pair.settle();
    assert_eq!(pair.client.session.poll_flushed(number, || 9), Some(Ok(())));
}

#[test]
fn ack_of_unsent_number_ends_protocol() {
    let mut lone = Lone::open(Side::Client);
    lone.feed(&Frame::Ack { number: 1 });
    assert_eq!(lone.ended(), None);
    lone.feed(&Frame::Ack { number: 0 });
    lone.feed(&Frame::Ack { number: 2 });
    assert_eq!(lone.ended(), Some(&ExitReason::Protocol));
}

#[test]
fn reflections_that_are_not_taken_end_overload() {
    let most = Limits::default().max_reflections;
    let monitor = |lone: &mut Lone, n: usize| lone.feed(&Frame::Monitor { monitor: n as u64, to: 99 });
    let ping = |lone: &mut Lone, _| lone.feed(&Frame::Ping { token: 1 });
    // A ping makes two of them.
    for (reflect, each) in [(&monitor as &dyn Fn(&mut Lone, usize), 1), (&ping, 2)] {
        let mut lone = Lone::open(Side::Server);
        let most = most / each;
        for n in 1..=most {
            reflect(&mut lone, n);
            if n == most / 2 {
                lone.fetch();
                // One byte of them is not all of them.
                lone.session.handle_accepted(lone.now, 1);
            }
        }
        assert_eq!(lone.ended(), None);
        reflect(&mut lone, most + 1);
        assert_eq!(lone.ended(), Some(&ExitReason::Overload));
    }
    let mut lone = Lone::open(Side::Server);
    for n in 1..=3 * most {
        monitor(&mut lone, n);
        lone.frames();
    }
    assert_eq!(lone.ended(), None, "those that are taken do not count");
}

#[test]
fn untaken_answers_end_overload_at_bound() {
    let limits = Limits::default();
    let mut lone = Lone::open(Side::Server);
    let max = lone.session.max_payload_len();
    let frames = (limits.max_unsent + (1 << 20)) / max;
    for call in 1..=frames as u64 + 1 {
        assert_eq!(lone.ended(), None, "{call}");
        lone.feed(&Frame::Call { to: 0, call, left: 60_000, payload: b"" });
        lone.session.reply(call, &mut vec![0; max]);
    }
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn many_flushes_at_once_are_no_flood() {
    let mut pair = Pair::open(5);
    let now = pair.now;
    let flushes: Vec<_> = (0..3 * Limits::default().max_reflections)
        .map(|_| {
            pair.client.session.cast(now, &mut vec![]).unwrap();
            pair.client.session.flush()
        })
        .collect();
    for &flush in &flushes {
        assert_eq!(pair.client.session.poll_flushed(flush, || 9), None);
    }
    pair.settle();
    pair.server.take();
    pair.settle();
    assert_eq!((pair.client.session.over(), pair.server.session.over()), (None, None));
    for flush in flushes {
        assert_eq!(pair.client.session.poll_flushed(flush, || 9), Some(Ok(())));
    }
}

#[test]
fn rest_of_burst_leaves_although_peer_pings_first() {
    let mut lone = Lone::open(Side::Server);
    let heartbeat = lone.session.parameters.heartbeat_interval();
    lone.wait(heartbeat * 3 / 4);
    lone.feed(&Frame::Ping { token: 1 });
    // Fetched, written, and given back with the next.
    for _ in 0..3 {
        lone.session.go_away();
        lone.frames();
    }
    assert!(lone.session.outgoing.spare() > 0);
    lone.wait(heartbeat * 3 / 4);
    assert_eq!(lone.session.outgoing.spare(), 0);
}

#[test]
fn repeats_ack_in_middle_of_long_frame() {
    let mut lone = Lone::open(Side::Server);
    let mut frame = Vec::new();
    Frame::Cast { to: 0, payload: &vec![0; 200_000] }.put(&mut frame);
    let mut acks = 0;
    for piece in frame.chunks(2000).take(90) {
        lone.session.handle_bytes(lone.now, piece);
        acks += lone.frames().len();
        lone.wait(Duration::from_secs(1));
    }
    assert!((17..=19).contains(&acks), "{acks} in 90 s at a heartbeat of 15 s");
}

#[test]
fn slow_long_frame_outlives_three_heartbeats() {
    // 1 MiB at 8 KiB a second, in either direction.
    for side in [Side::Client, Side::Server] {
        let mut pair = Pair::open(9);
        let now = pair.now;
        let (near, far) = match side {
            Side::Client => (&mut pair.client, &mut pair.server),
            Side::Server => (&mut pair.server, &mut pair.client),
        };
        near.session.cast(now, &mut vec![7; 1_000_000]).unwrap();
        let len = near.session.unsent();
        (near.room, far.room) = (0, usize::MAX);
        let mut left = len;
        while left > 0 {
            let piece = left.min(8192);
            left -= piece;
            match side {
                Side::Client => pair.client.room += piece,
                Side::Server => pair.server.room += piece,
            }
            pair.advance(Duration::from_secs(1));
            assert_eq!((pair.client.session.over(), pair.server.session.over()), (None, None), "{left} left");
        }
    }
}

#[test]
fn close_waits_while_peer_takes_bytes() {
    for takes in [true, false] {
        let mut lone = Lone::open(Side::Client);
        let now = lone.now;
        lone.session.try_cast(&mut vec![0; 500_000]).unwrap();
        lone.session.end(ExitReason::Normal, 0, Some(now + Limits::default().close_timeout));
        let mut seconds = 0;
        let len = lone.session.unsent();
        lone.fetch();
        lone.session.handle_accepted(now, len);
        while lone.ended().is_none() {
            if takes {
                // All of it is in the kernel's buffer, and the peer is still in the middle of it.
                lone.feed(&Frame::Ack { number: 0 });
            }
            lone.wait(Duration::from_secs(1));
            seconds += 1;
        }
        // 500 kB at 64 KiB a minute are eight minutes.
        let expected = if takes { 480..=510 } else { 10..=10 };
        assert!(expected.contains(&seconds), "{seconds}");
    }
}

#[test]
fn a_frame_that_trickles_is_a_stall() {
    // Almost a whole frame at once, and then so many bytes a second.
    for (a_second, stalls) in [(1, true), (1000, true), (1200, false)] {
        let mut lone = Lone::open(Side::Server);
        let mut frame = Vec::new();
        Frame::Cast { to: 0, payload: &vec![0; 900_000] }.put(&mut frame);
        let (first, rest) = frame.split_at(600_000);
        lone.session.handle_bytes(lone.now, first);
        let mut seconds = 0;
        for piece in rest.chunks(a_second).take(300) {
            lone.wait(Duration::from_secs(1));
            if lone.ended().is_some() {
                break;
            }
            seconds += 1;
            lone.session.handle_bytes(lone.now, piece);
            lone.frames();
        }
        assert_eq!(lone.ended().is_some(), stalls, "{a_second}");
        let limit = Limits::default().stall_timeout.as_secs();
        assert!(if stalls { seconds < 2 * limit } else { seconds > 2 * limit }, "{a_second}: {seconds} s");
        assert!(!stalls || lone.session.attachment.partial.capacity() == 0, "its memory is given back");
    }
}

#[test]
fn slow_small_frames_are_no_stall() {
    let mut lone = Lone::open(Side::Server);
    let mut frames = Vec::new();
    (0..100).for_each(|_| Frame::Cast { to: 0, payload: &[0; 100] }.put(&mut frames));
    // Each piece ends in the middle of a frame.
    for piece in frames.chunks(103) {
        lone.session.handle_bytes(lone.now, piece);
        lone.frames();
        lone.wait(Duration::from_secs(10));
        assert_eq!(lone.ended(), None);
    }
}
