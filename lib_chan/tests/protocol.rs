//! `PROTOCOL.md` shows bytes. These are the bytes.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test asks for the time itself, and shows what it saw"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lib_chan::handshake::{SessionParameters, pair_in_memory};
use lib_chan::payload::{Codec, decode, encode};
use lib_chan::session::{
    Batch, Endpoint, Event, FIRST_EPOCH, Host, Inbound, InboundKind, Next, OpenRequest, Reader, Who,
};
use lib_chan::wire::{Frame, LEN_LEN, frame_len};
use lib_chan::{ExitReason, Limits};
use serde::{Deserialize, Serialize};

const PAGE: &str = include_str!("../../PROTOCOL.md");

struct Alone;

impl Host for Alone {
    type Waiter = ();
    type Process = ();
}

/// The lines of the first block with this name, or of the first without one that has a line beginning so.
fn block(opening: &str, first: &str) -> Vec<&'static str> {
    let mut blocks = PAGE.split(opening).skip(1).filter_map(|rest| rest.split("\n```").next());
    let block = blocks.find(|block| block.lines().any(|line| line.starts_with(first)));
    block.expect("such a block").lines().filter(|line| !line.is_empty()).collect()
}

/// The golden vectors of frames: a name and bytes. A line that begins with a space continues the bytes of the last.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let mut vectors = Vec::new();
    for line in block("```text\n", "Start  ") {
        if line.starts_with(' ') {
            let (_, bytes): &mut (_, Vec<u8>) = vectors.last_mut().expect("a first line");
            bytes.extend(hex(line));
        } else {
            let (name, rest) = line.split_once(' ').unwrap();
            vectors.push((name, hex(rest)));
        }
    }
    vectors
}

/// The bytes in front of the words: what is separated from the next by one space, or hangs over from the line before.
fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.trim().split("  ").next().unwrap_or_default().split(' ').collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn sent(end: &mut Endpoint<Alone>, now: Instant) -> Vec<u8> {
    let (mut batch, mut bytes) = (Batch::default(), Vec::new());
    end.transmit(FIRST_EPOCH, now, &mut batch);
    while !batch.chunk().is_empty() {
        let len = batch.chunk().len();
        bytes.extend_from_slice(batch.chunk());
        batch.advance(len);
        end.handle_accepted(FIRST_EPOCH, now, len);
    }
    bytes
}

fn take(end: &mut Endpoint<Alone>, reader: &mut Reader) -> Vec<Inbound> {
    let mut taken = Vec::new();
    assert!(end.fetch(reader, |_| ()));
    while let Next::Message(message, _) = reader.take() {
        taken.push(message);
    }
    end.give_back();
    taken
}

fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(len) = frame_len(bytes, 1 << 24).expect("a frame") {
        let (frame, rest) = bytes.split_at(LEN_LEN + len);
        frames.push(frame.to_vec());
        bytes = rest;
    }
    frames
}

/// The session of the page, as two ends of ours hold it: who sends, and a frame.
fn session() -> Vec<(char, Vec<u8>)> {
    let limits = Limits::default();
    let parameters = SessionParameters::from_limits(&limits).unwrap();
    let (client, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let now = Instant::now();
    let mut client: Endpoint<Alone> = Endpoint::new(&client, &limits, now);
    let mut server: Endpoint<Alone> = Endpoint::new(&server, &limits, now);
    let mut seen = Vec::new();
    let mut to_server = |client: &mut Endpoint<Alone>, server: &mut Endpoint<Alone>| {
        let bytes = sent(client, now);
        server.handle_bytes(FIRST_EPOCH, now, &bytes, [0, 0]);
        seen.extend(frames(&bytes).into_iter().map(|frame| ('C', frame)));
        let bytes = sent(server, now);
        client.handle_bytes(FIRST_EPOCH, now, &bytes, [0, 0]);
        seen.extend(frames(&bytes).into_iter().map(|frame| ('S', frame)));
    };

    client.session_mut().start(&OpenRequest::new(Codec::Json, b"null")).unwrap();
    to_server(&mut client, &mut server);
    let Some(Event::Requested(request)) = server.poll(Who::Driver, 0) else { panic!("a request") };
    assert_eq!(request.args, "null");
    server.session_mut().accept(Some(()), true);
    to_server(&mut client, &mut server);

    let store = br#"{"Store":{"key":"joe","value":"writing a book"}}"#;
    assert_eq!(client.session_mut().cast(now, &mut store.to_vec()), Ok(None));
    let lookup = br#"{"Lookup":{"key":"joe"}}"#;
    let call = client.session_mut().call(now, now + Duration::from_secs(60), &mut lookup.to_vec()).unwrap();
    to_server(&mut client, &mut server);
    let mut reader = server.reader();
    let taken = take(&mut server, &mut reader);
    assert_eq!(taken[1].kind, InboundKind::Call { call });
    server.session_mut().reply(call, &mut br#""writing a book""#.to_vec());
    to_server(&mut client, &mut server);
    assert_eq!(client.session_mut().poll_call(call, |_| ()).unwrap().unwrap(), r#""writing a book""#);

    let number = client.session_mut().flush();
    to_server(&mut client, &mut server);
    assert_eq!(client.session_mut().poll_flushed(number, || ()), Some(Ok(())));

    client.let_go(now, ExitReason::Normal);
    to_server(&mut client, &mut server);
    assert_eq!((client.over(), server.over()), (Some(&ExitReason::Normal), Some(&ExitReason::Normal)));
    seen
}

#[test]
fn page_session_matches_two_ends() {
    let written: Vec<_> = block("```session\n", "C")
        .into_iter()
        .map(|line| (line.chars().next().unwrap(), hex(&line[1..])))
        .collect();
    let shown = session();
    for (who, frame) in &shown {
        let spelled: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{who}  {spelled}  {:?}", Frame::parse(&frame[LEN_LEN..]));
    }
    assert_eq!(written, shown);
}

#[test]
fn page_vectors_cover_every_frame() {
    let mut kinds = std::collections::BTreeSet::new();
    for (name, bytes) in vectors() {
        let frame = Frame::parse(&bytes[LEN_LEN..]).unwrap();
        let shown = match &frame {
            Frame::With { message, .. } => format!("{message:?}").replace(" {", "With {"),
            frame => format!("{frame:?}"),
        };
        assert!(shown.starts_with(name), "{name}: {frame:?}");
        let mut again = Vec::new();
        frame.put(&mut again);
        assert_eq!(again, bytes, "{name}");
        kinds.insert(frame.kind());
    }
    assert_eq!(kinds.len(), 29);
}

#[test]
fn page_table_names_every_kind() {
    for (name, bytes) in vectors() {
        let kind = bytes[LEN_LEN];
        assert!(PAGE.contains(&format!("| `{kind:02x}` | {name} |")), "{name}");
    }
}

#[test]
fn page_codes_match() {
    for code in 0..12 {
        let reason = ExitReason::from_wire(code, "").unwrap();
        let name = reason.to_string();
        let name = name.trim_end_matches(": ");
        assert!(PAGE.contains(&format!("| {code} | {name} |")), "{name}");
    }
    assert_eq!(ExitReason::from_wire(12, ""), None);
    for (code, name) in [(1, "bincode"), (2, "json"), (3, "raw")] {
        assert_eq!(Codec::from_code(code).unwrap().to_string(), name);
        assert!(PAGE.contains(&format!("| {code} | `{name}` |")));
    }
}

#[test]
fn page_messages_match_codecs() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Request {
        Store { key: String, value: String },
        Lookup { key: String },
    }
    let key = || String::from("joe");
    let requests =
        [Request::Store { key: key(), value: "writing a book".into() }, Request::Lookup { key: key() }];
    let lines = block("```text\n", "json  ");
    assert_eq!(lines.len(), 4);
    for (request, lines) in requests.iter().zip(lines.chunks(2)) {
        for (line, codec) in lines.iter().zip([Codec::Json, Codec::Bincode]) {
            let (name, shown) = line.split_once(' ').unwrap();
            assert_eq!(name, codec.to_string());
            let shown = if codec == Codec::Json { shown.trim().as_bytes().to_vec() } else { hex(shown) };
            let mut encoded = Vec::new();
            encode(codec, request, &mut encoded).unwrap();
            assert_eq!(encoded, shown, "{line}");
            assert_eq!(decode::<Request>(codec, &shown).as_ref(), Ok(request));
        }
    }
}

#[test]
fn page_login_is_first_vector() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/auth.json")).unwrap();
    let vector = &vectors["password"][0];
    let lines = block("```text\n", "password  ");
    for field in ["password", "service"] {
        assert!(lines[0].contains(vector[field].as_str().unwrap()), "{field}");
    }
    let mut shown: Vec<(&str, String)> = Vec::new();
    for line in &lines[1..] {
        let (name, digits) = line.split_once(' ').unwrap();
        let digits = digits.split(' ').collect::<String>();
        match shown.last_mut() {
            Some((_, before)) if name.is_empty() => before.push_str(&digits),
            _ => shown.push((name, digits)),
        }
    }
    let given = ["ekm", "name_key", "m1", "m2", "transcript", "m3", "m4"]
        .map(|field| vector[field].as_str().unwrap().to_owned());
    assert_eq!(
        shown,
        ["EKM", "KEY", "M1", "M2", "TH", "M3", "M4"].into_iter().zip(given).collect::<Vec<_>>()
    );
}

#[test]
fn page_resume_is_second_vector() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/auth.json")).unwrap();
    let vector = &vectors["resume"][1];
    let lines = block("```text\n", "SECRET  ");
    let shown = |at: usize| hex(&lines[at][8..]);
    for (at, field) in ["secret", "key", "ekm"].into_iter().enumerate() {
        assert_eq!(shown(at), hex(vector[field].as_str().unwrap()), "{field}");
    }
    let frame = [shown(3), shown(4)].concat();
    assert_eq!(frame_len(&frame, 1024), Ok(Some(frame.len() - LEN_LEN)));
    let Ok(Frame::Resume { claim, proof }) = Frame::parse(&frame[LEN_LEN..]) else { panic!("a Resume") };
    assert_eq!(claim.id.to_string(), vector["id"].as_str().unwrap());
    for (number, field) in [(claim.epoch, "epoch"), (claim.received, "received"), (claim.sent, "sent")] {
        assert_eq!(number.to_string(), vector[field].as_str().unwrap(), "{field}");
    }
    assert_eq!(proof.to_vec(), hex(vector["proof"].as_str().unwrap()));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    key: String,
    value: String,
}

/// The value of a type of the page, as JSON, or `None` if our decoder refuses the payload.
fn read(codec: Codec, kind: &str, payload: &[u8]) -> Option<serde_json::Value> {
    #[derive(Debug, Serialize, Deserialize)]
    enum Request {
        Store(Record),
        Lookup { key: String },
    }
    fn as_json<T: Serialize + serde::de::DeserializeOwned>(
        codec: Codec,
        payload: &[u8],
    ) -> Option<serde_json::Value> {
        decode::<T>(codec, payload).ok().map(|value| serde_json::to_value(value).unwrap())
    }
    let read = match kind {
        "u8" => as_json::<u8>,
        "u16" => as_json::<u16>,
        "u64" => as_json::<u64>,
        "f32" => as_json::<f32>,
        "f64" => as_json::<f64>,
        "text" => as_json::<String>,
        "map" => as_json::<BTreeMap<String, u64>>,
        "record" => as_json::<Record>,
        "request" => as_json::<Request>,
        other => panic!("{other} is no type of the page"),
    };
    read(codec, payload)
}

#[test]
fn page_payloads_are_read_or_refused() {
    let lines = block("```text\n", "read  ");
    for line in &lines {
        let columns: Vec<_> = line.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
        let &["read", codec, kind, payload, expected] = columns.as_slice() else { panic!("{line}") };
        let codec: Codec = codec.parse().unwrap();
        let payload = match codec {
            Codec::Bincode => hex(payload),
            _ => payload.replace("\\ufeff", "\u{feff}").into_bytes(),
        };
        let expected = (expected != "error").then(|| serde_json::from_str(expected).unwrap());
        assert_eq!(read(codec, kind, &payload), expected, "{line}");
    }
    assert_eq!(lines.len(), 24);
}
