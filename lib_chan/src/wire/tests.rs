use super::*;

/// The hash of the methods `cast Store(key: String, value: String)` and `call Lookup(key: String) -> Option<String>`.
const NAMES_HASH: &str = "7c983387b36617afcd99b212282494c880336b30eb0f54dd38480667f908d5d0";

fn samples() -> Vec<(Frame<'static>, &'static str)> {
    let terms = Terms { max_calls: 1024, max_links: 300, max_handles: 128 };
    let failed = || ExitReason::failed("boom");
    let id = SessionId::new([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes(NAMES_HASH));
    let interface = InterfaceHash { methods: 2, hash };
    let granted = Granted { window: 60_000, id, secret: Secret::new([0xab; 32]) };
    vec![
        (
            Frame::Start {
                codec: 2,
                terms,
                max_frame_len: 1 << 20,
                window_len: 1 << 18,
                resume: 0,
                interface: None,
                args: b"null",
            },
            "00000015 01 02 8008 ac02 8001 808040 808010 00 00 00 6e756c6c",
        ),
        (
            Frame::Start {
                codec: 3,
                terms,
                max_frame_len: 1 << 20,
                window_len: 1 << 18,
                resume: 60_000,
                interface: None,
                args: b"",
            },
            "00000013 01 03 8008 ac02 8001 808040 808010 e0d403 00 00",
        ),
        (
            Frame::Start {
                codec: 1,
                terms,
                max_frame_len: 1 << 20,
                window_len: 1 << 18,
                resume: 0,
                interface: Some(Box::new(interface)),
                args: b"",
            },
            "00000031 01 01 8008 ac02 8001 808040 808010 00 02 20 \
             7c983387b36617afcd99b212282494c880336b30eb0f54dd38480667f908d5d0",
        ),
        (Frame::Started { terms, resume: None }, "00000008 02 8008 ac02 8001 00"),
        (
            Frame::Started { terms, resume: Some(Box::new(granted)) },
            "0000003a 02 8008 ac02 8001 e0d403 000102030405060708090a0b0c0d0e0f \
             abababababababababababababababababababababababababababababababab",
        ),
        (Frame::Cast { to: 0, payload: b"hi" }, "00000004 03 00 6869"),
        (Frame::Call { to: 5, call: 1, left: 60_000, payload: b"hi" }, "00000008 04 05 01 e0d403 6869"),
        (Frame::Cancel { call: 128 }, "00000003 05 8001"),
        (Frame::Reply { call: 1, payload: b"" }, "00000002 06 01"),
        (
            Frame::Refuse { call: 0, code: RefuseCode::Codec, text: "raw only" },
            "0000000b 07 00 02 726177206f6e6c79",
        ),
        (
            Frame::Refuse {
                call: 0,
                code: RefuseCode::Interface,
                text: "protocol Ping\ncall Ping() -> ()\n",
            },
            "00000023 07 00 08 70726f746f636f6c2050696e670a \
             63616c6c2050696e672829202d3e2028290a",
        ),
        (Frame::Exit { from: 3, to: 0, taken: None, reason: ExitReason::Kill }, "00000006 08 03 00 00 00 02"),
        (
            Frame::Exit { from: 3, to: 9, taken: Some(7), reason: failed() },
            "0000000a 08 03 09 01 07 07 626f6f6d",
        ),
        (Frame::Ended { taken: 200, reason: ExitReason::Normal }, "00000004 09 c801 00"),
        (Frame::Ended { taken: 0, reason: failed() }, "00000007 09 00 07 626f6f6d"),
        (Frame::Link { from: 1, to: 0 }, "00000003 0a 01 00"),
        (Frame::Unlink { from: 1, to: 0, unlink: 2 }, "00000004 0b 01 00 02"),
        (Frame::UnlinkAck { from: 0, to: 1, unlink: 2 }, "00000004 0c 00 01 02"),
        (Frame::Monitor { monitor: 1, to: 0 }, "00000003 0d 01 00"),
        (Frame::Demonitor { monitor: 1 }, "00000002 0e 01"),
        (Frame::Down { monitor: 1, taken: 0, reason: ExitReason::NoProc }, "00000004 0f 01 00 04"),
        (Frame::GoAway, "00000001 10"),
        (Frame::Part { call: 1, total: 300, payload: b"hi" }, "00000006 11 01 ac02 6869"),
        (Frame::PartTo { to: 0, total: 300, payload: b"hi" }, "00000006 16 00 ac02 6869"),
        (Frame::PartTo { to: 5, total: 0, payload: b"" }, "00000003 16 05 00"),
        (Frame::Release { id: 5, count: 2 }, "00000003 12 05 02"),
        (
            Frame::With { message: MessageHead::Cast { to: 0 }, handles: table(), payload: b"hi" },
            "0000000d 13 00 02 00 05 03 808004 01 09 6869",
        ),
        (
            Frame::With {
                message: MessageHead::Call { to: 5, call: 1, left: 60_000 },
                handles: table(),
                payload: b"hi",
            },
            "00000011 14 05 01 e0d403 02 00 05 03 808004 01 09 6869",
        ),
        (
            Frame::With { message: MessageHead::Reply { call: 1 }, handles: table(), payload: b"" },
            "0000000b 15 01 02 00 05 03 808004 01 09",
        ),
        (Frame::Credit { id: 0, total: 1 << 18 }, "00000005 40 00 808010"),
        (Frame::Ack { number: 1 }, "00000002 41 01"),
        (Frame::Ping { token: 1 }, "00000002 42 01"),
        (Frame::Pong { token: u64::MAX }, "0000000b 43 ffffffffffffffffff01"),
        (
            Frame::Resume { claim: ResumeClaim { id, epoch: 2, received: 300, sent: 7 }, proof: &[0xcd; 32] },
            "00000035 44 000102030405060708090a0b0c0d0e0f 02 ac02 07 \
             cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
        ),
        (Frame::Resumed { received: 7, sent: 300 }, "00000004 45 07 ac02"),
        (Frame::Lost { tombstone: None }, "00000002 46 00"),
        (
            Frame::Lost { tombstone: Some(Tombstone { received: 7, taken: 5, reason: failed() }) },
            "00000009 46 01 07 05 07 626f6f6d",
        ),
    ]
}

/// Process 5 of the sender, with a window of 64 KiB, and process 9 of the receiver.
fn table() -> HandleTable<'static> {
    let sender = HandleEntry::Sender { id: 5, rights: crate::Rights::default(), window: 1 << 16 };
    HandleTable::new(&[sender, HandleEntry::Receiver { id: 9 }], Box::leak(Box::default()))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn frames_match_golden_vectors() {
    let mut kinds = std::collections::BTreeSet::new();
    for (frame, hex) in samples() {
        let mut out = Vec::new();
        frame.put(&mut out);
        assert_eq!(out, bytes(hex), "{frame:?}");
        assert_eq!(frame_len(&out, 64), Ok(Some(out.len() - LEN_LEN)));
        assert_eq!(Frame::parse(&out[LEN_LEN..]), Ok(frame.clone()));
        kinds.insert(frame.kind());
    }
    assert_eq!(kinds.len(), 29, "a sample of each kind");
}

#[test]
fn cut_frame_is_no_other_frame() {
    for (frame, _) in samples() {
        let mut out = Vec::new();
        let rest_len = match &frame {
            Frame::Exit { reason, .. } | Frame::Ended { reason, .. } | Frame::Down { reason, .. } => {
                reason.text().len()
            }
            Frame::Lost { tombstone: Some(Tombstone { reason, .. }) } => reason.text().len(),
            frame => frame.put_head(&mut Vec::new()).len(),
        };
        frame.put(&mut out);
        for cut in 0..out.len() - LEN_LEN - rest_len {
            assert_eq!(Frame::parse(&out[LEN_LEN..LEN_LEN + cut]), Err(WireError::Truncated), "{frame:?}");
        }
    }
}

#[test]
fn refuses_bytes_after_frame() {
    for frame in [Frame::GoAway, Frame::Ack { number: 1 }, Frame::Link { from: 1, to: 0 }] {
        let mut out = Vec::new();
        frame.put(&mut out);
        out.push(0);
        assert_eq!(Frame::parse(&out[LEN_LEN..]), Err(WireError::Trailing));
    }
}

#[test]
fn refuses_unknown_kinds_and_codes() {
    assert_eq!(Frame::parse(&[0x17]), Err(WireError::UnknownKind(0x17)));
    assert_eq!(Frame::parse(&[0x00]), Err(WireError::UnknownKind(0)));
    assert_eq!(Frame::parse(&bytes("07 00 09")), Err(WireError::Code(9)));
    assert_eq!(Frame::parse(&bytes("09 00 0c")), Err(WireError::Code(12)));
}

#[test]
fn refuses_bad_texts() {
    let mut long = bytes("09 00 07");
    long.extend([b'x'; 257]);
    assert_eq!(Frame::parse(&long), Err(WireError::Text));
    assert_eq!(Frame::parse(&bytes("09 00 07 ff")), Err(WireError::Text));
    assert_eq!(Frame::parse(&bytes("09 00 01 78")), Err(WireError::Text));
}

#[test]
fn interface_refuses_start_only_and_is_bounded() {
    assert!(Frame::parse(&bytes("07 00 08")).is_ok());
    assert_eq!(Frame::parse(&bytes("07 01 08")), Err(WireError::Code(8)));
    let mut long = bytes("07 00 08");
    long.resize(3 + MAX_INTERFACE_LEN, b'x');
    assert!(Frame::parse(&long).is_ok());
    long.push(b'x');
    assert_eq!(Frame::parse(&long), Err(WireError::Text));
    let mut other = bytes("07 00 01");
    other.resize(3 + MAX_TEXT_LEN + 1, b'x');
    assert_eq!(Frame::parse(&other), Err(WireError::Text));
}

#[test]
fn protocol_of_start_is_whole_or_absent() {
    let start = |protocol: &str| {
        let mut body = bytes("01 02 8008 ac02 8001 808040 808010 00");
        body.extend(bytes(protocol));
        Frame::parse(&body).map(|frame| matches!(frame, Frame::Start { interface: Some(_), .. }))
    };
    assert_eq!(start("00 00"), Ok(false));
    assert_eq!(start(&format!("00 20 {NAMES_HASH}")), Ok(true));
    assert_eq!(start("02 00"), Err(WireError::Number));
    assert_eq!(start("00 01 00"), Err(WireError::Number));
    assert_eq!(start("02 20 00"), Err(WireError::Truncated));
}

#[test]
fn an_exit_sent_explicitly_has_no_number_taken() {
    assert_eq!(Frame::parse(&bytes("08 03 00 00 05 02")), Err(WireError::Number));
    assert_eq!(Frame::parse(&bytes("08 03 00 02 05 02")), Err(WireError::Number));
}

#[test]
fn lost_knows_all_or_nothing() {
    assert_eq!(Frame::parse(&bytes("46 00 01")), Err(WireError::Trailing));
    assert_eq!(Frame::parse(&bytes("46 02 01 01 00")), Err(WireError::Number));
    assert_eq!(Frame::parse(&bytes("46 01 01 01 0c")), Err(WireError::Code(12)));
}

#[test]
fn started_without_resume_has_no_secret() {
    let mut with_id = bytes("02 00 00 00 00");
    with_id.extend([0xab; 48]);
    assert_eq!(Frame::parse(&with_id), Err(WireError::Trailing));
    with_id[4] = 1;
    assert!(matches!(Frame::parse(&with_id), Ok(Frame::Started { resume: Some(_), .. })));
    assert_eq!(Frame::parse(&with_id[..52]), Err(WireError::Truncated));
}

#[test]
fn secret_is_masked_when_a_frame_is_printed() {
    let mut shown = String::new();
    for (frame, _) in samples() {
        shown += &format!("{frame:?}");
    }
    assert!(shown.contains("Secret(..)") && !shown.contains("171"), "{shown}");
}

#[test]
fn a_length_is_checked_before_anything_is_kept() {
    assert_eq!(frame_len(&[0, 0, 1], 1024), Ok(None));
    assert_eq!(frame_len(&[0, 0, 4, 0], 1024), Ok(Some(1024)));
    assert_eq!(frame_len(&[0, 0, 4, 1], 1024), Err(WireError::TooLong { len: 1025, max: 1024 }));
    assert_eq!(frame_len(&[0xff; 4], 1024), Err(WireError::TooLong { len: 0xffff_ffff, max: 1024 }));
    assert_eq!(frame_len(&[0; 4], 1024), Err(WireError::Truncated));
}

#[test]
fn refuses_malformed_tables_of_handles() {
    let cast = |table: &str| {
        let body = bytes(&format!("13 00 {table}"));
        Frame::parse(&body).map(drop)
    };
    assert_eq!(cast("01 01 05"), Ok(()));
    assert_eq!(cast("00"), Err(WireError::Number), "no handles");
    assert_eq!(cast("8108"), Err(WireError::Number), "more than 1 024");
    assert_eq!(cast("01 02 05"), Err(WireError::Number), "neither end's");
    assert_eq!(cast("01 01 00"), Err(WireError::Number), "the owner");
    assert_eq!(cast("01 00 05 20 00"), Err(WireError::Number), "an unknown right");
    assert_eq!(cast("02 01 05"), Err(WireError::Truncated), "one of two");
}
