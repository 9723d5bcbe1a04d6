//! Protocols made by the macro: between processes, over a session, and on the wire.

use std::time::Duration;

use lib_chan::payload::{Codec, PayloadError, encode};
use lib_chan::protocol::{Interface, Protocol, Schema, describe};
use lib_chan::{
    Address, Call, CallError, CallFailure, CastError, Channel, Event, Executed, ExitReason, Incoming, Limits,
    Message, Process, Reply, protocol, spawn, testing,
};
use serde::{Deserialize, Serialize};

/// A place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
pub struct Place {
    /// Degrees.
    north: f64,
    east: f64,
}

/// Where things are.
#[protocol]
pub trait Places {
    /// Remembers a place.
    fn store(key: String, place: Place);
    /// Returns a place.
    async fn lookup(key: String) -> Option<Place>;
    /// Fails, or says how many there are.
    async fn count(fail: bool) -> Result<u64, String>;
    /// Answers.
    async fn ping();
    /// Waits until nobody waits for it.
    async fn hang(r#type: u8);
}

fn here() -> Place {
    Place { north: 47.5, east: 8.5 }
}

#[derive(Default)]
struct Store(Vec<(String, Place)>);

impl Store {
    async fn handle(&mut self, message: PlacesMessage) {
        match message {
            PlacesMessage::Store { key, place } => self.0.push((key, place)),
            PlacesMessage::Lookup { key, reply } => {
                let found = self.0.iter().find(|(other, _)| *other == key);
                reply.send(found.map(|(_, place)| place.clone()));
            }
            PlacesMessage::Count { fail: true, reply } => reply.send(Err("as told".into())),
            PlacesMessage::Count { fail: false, reply } => reply.send(Ok(self.0.len() as u64)),
            PlacesMessage::Ping { reply } => reply.send(()),
            PlacesMessage::Hang { r#type: _, reply } => {
                assert!(!reply.is_cancelled());
                reply.cancelled().await;
                assert!(reply.is_cancelled());
            }
        }
    }
}

async fn process(mut me: Process<PlacesMessage>) -> Result<(), ExitReason> {
    let mut store = Store::default();
    loop {
        if let Event::Message(message) = me.recv().await {
            store.handle(message).await;
        }
    }
}

async fn service(_me: Process, mut chan: Channel<PlacesMessage, ()>) -> Result<(), ExitReason> {
    let mut store = Store::default();
    while let Some(message) = chan.recv().await {
        store.handle(message).await;
    }
    Ok(())
}

/// What a caller sees, wherever the process is.
async fn used(places: &impl Places) {
    assert_eq!(places.ping().await, Ok(()));
    assert_eq!(places.store("here", here()).await, Ok(()));
    assert_eq!(places.lookup(String::from("here")).await, Ok(Some(here())));
    assert_eq!(places.lookup("there").await, Ok(None));
    assert_eq!(places.count(false).await, Ok(Ok(1)));
    assert_eq!(places.count(true).await, Ok(Err("as told".into())));
}

#[tokio::test(start_paused = true)]
async fn local_process_is_called_through_its_address() {
    let places = spawn(process);
    used(&places).await;
    let error = places.within(Duration::from_secs(3)).hang(1).await.unwrap_err();
    assert_eq!(error, CallError::new(Executed::Unknown, CallFailure::Deadline));
}

#[tokio::test(start_paused = true)]
async fn far_process_is_called_through_its_remote() {
    for codec in [Codec::Bincode, Codec::Json] {
        let (chan, _line) = testing::pair().codec(codec).serve(service).await.unwrap();
        used(&chan.remote()).await;
        let error = chan.remote().within(Duration::from_secs(3)).hang(1).await.unwrap_err();
        assert_eq!(error, CallError::new(Executed::Unknown, CallFailure::Deadline));
    }
}

#[tokio::test(start_paused = true)]
async fn messages_pass_from_channel_to_local_process() {
    let places = spawn(process);
    let relay = {
        let places = places.clone();
        async move |_me: Process, mut chan: Channel<PlacesMessage, ()>| {
            while let Some(message) = chan.recv().await {
                places.send(message).await?;
            }
            Ok(())
        }
    };
    let (chan, _line) = testing::pair().serve(relay).await.unwrap();
    used(&chan.remote()).await;
    assert_eq!(places.count(false).await, Ok(Ok(1)));
}

#[tokio::test(start_paused = true)]
async fn given_channel_brings_messages_of_the_protocol() {
    let given = spawn(async |mut me: Process<Incoming<PlacesMessage>>| {
        let mut store = Store::default();
        while let Event::Message(Incoming::Message(message)) = me.recv().await {
            store.handle(message).await;
        }
        Ok(())
    });
    let (client, server, _line) = testing::pair().open::<PlacesMessage, ()>().await.unwrap();
    server.give_to(&given, |incoming| incoming).unwrap();
    used(&client.remote()).await;
    let info = given.pid().info().unwrap();
    assert_eq!((info.mailbox_len, info.messages_taken), (0, 6));
    client.close().await.unwrap();
    assert_eq!(given.pid().ended().await, ExitReason::Normal);
}

/// The wire form of a client that knows no macro.
#[derive(Serialize, Deserialize)]
enum ByHand {
    Store { key: String, place: Place },
    Lookup { key: String },
}

impl Call for ByHand {
    type Reply = Option<Place>;
}

#[tokio::test(start_paused = true)]
async fn refuses_method_called_the_wrong_way() {
    for codec in [Codec::Bincode, Codec::Json] {
        let (client, mut server, _line) =
            testing::pair().codec(codec).open_as::<(), ByHand, PlacesMessage, ()>().await.unwrap();
        let served = tokio::spawn(async move {
            let mut store = Store::default();
            while let Some(message) = server.recv().await {
                store.handle(message).await;
            }
            store.0.len()
        });
        let remote = client.remote();
        // A cast of a call is discarded.
        remote.cast(ByHand::Lookup { key: "here".into() }).await.unwrap();
        assert_eq!(remote.taken().await, Ok(()));
        let error = remote.call(ByHand::Store { key: "here".into(), place: here() }).await.unwrap_err();
        let text = "`store` is a cast: it has no answer, so it cannot be called";
        assert_eq!(error, CallError::new(Executed::No, CallFailure::Refused(text.into())));

        remote.cast(ByHand::Store { key: "here".into(), place: here() }).await.unwrap();
        assert_eq!(remote.call(ByHand::Lookup { key: "here".into() }).await, Ok(Some(here())));
        client.close().await.unwrap();
        assert_eq!(served.await.unwrap(), 1);
    }
}

type Wire = <PlacesMessage as Protocol>::Wire;

#[test]
fn json_is_the_variant_and_its_arguments() {
    for text in [
        r#"{"Store":{"key":"here","place":{"north":47.5,"east":8.5}}}"#,
        r#"{"Lookup":{"key":"joe"}}"#,
        r#"{"Ping":{}}"#,
        r#"{"Hang":{"type":1}}"#,
    ] {
        let wire: Wire = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&wire).unwrap(), text);
    }
}

#[test]
fn bincode_is_the_index_and_the_arguments() {
    for (text, bytes) in [
        (r#"{"Lookup":{"key":"joe"}}"#, &b"\x01\x03joe"[..]),
        (r#"{"Ping":{}}"#, &b"\x03"[..]),
        (r#"{"Hang":{"type":9}}"#, &b"\x04\x09"[..]),
    ] {
        let wire: Wire = serde_json::from_str(text).unwrap();
        let mut encoded = Vec::new();
        encode(Codec::Bincode, &wire, &mut encoded).unwrap();
        assert_eq!(encoded, bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn cast_says_why_it_was_not_sent() {
    let mut limits = Limits::default();
    limits.max_frame_len = 1024;
    let (chan, line) = testing::pair().limits(limits).serve(service).await.unwrap();
    let places = chan.remote();
    let long = places.store("x".repeat(2000), here()).await;
    assert!(matches!(long, Err(CastError::TooLong { max }) if max < 1024), "{long:?}");

    line.hold();
    let now = places.within(Duration::ZERO);
    let full = loop {
        if let Err(error) = now.store("x".repeat(500), here()).await {
            break error;
        }
    };
    assert_eq!(full, CastError::WouldWait);
    let soon = places.within(Duration::from_secs(1));
    assert_eq!(soon.store("x".repeat(500), here()).await, Err(CastError::WouldWait));
    line.cut();
    assert_eq!(places.ended().await, ExitReason::NoConnection);
    let ended = places.store("x", here()).await.unwrap_err();
    assert_eq!(ended, CastError::Ended(ExitReason::NoConnection));
    let source = std::error::Error::source(&ended).unwrap();
    assert_eq!(source.downcast_ref(), Some(&ExitReason::NoConnection));
}

#[tokio::test(start_paused = true)]
async fn cast_that_does_not_encode_keeps_its_source() {
    let (client, _server, _line) = testing::pair()
        .codec(Codec::Json)
        .open::<std::collections::BTreeMap<(u8, u8), u8>, ()>()
        .await
        .unwrap();
    let error = client.remote().cast([((1, 2), 3)]).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.downcast_ref::<PayloadError>().is_some(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn full_mailbox_makes_a_cast_wait_or_fail() {
    let options = lib_chan::SpawnOptions { mailbox_capacity: 1, ..Default::default() };
    let idle: Address<PlacesMessage> = lib_chan::spawn_with(options, async |me: Process<PlacesMessage>| {
        let _me = me;
        std::future::pending().await
    });
    assert_eq!(idle.store("one", here()).await, Ok(()));
    assert_eq!(idle.within(Duration::ZERO).store("two", here()).await, Err(CastError::WouldWait));
    assert_eq!(idle.within(Duration::from_secs(1)).store("two", here()).await, Err(CastError::WouldWait));
    idle.pid().exit(ExitReason::Kill);
    assert_eq!(idle.store("three", here()).await, Err(CastError::Ended(ExitReason::NoProc)));
}

#[test]
fn interface_is_written_as_text_and_read_again() {
    let interface = PlacesMessage::interface();
    let text = "\
protocol Places
cast Store(key: String, place: struct Place{north: f64, east: f64})
call Lookup(key: String) -> Option<struct Place{north: f64, east: f64}>
call Count(fail: bool) -> Result<u64, String>
call Ping() -> ()
call Hang(type: u8) -> ()
";
    assert_eq!(interface.text(), text);
    let read: Interface = text.parse().unwrap();
    assert_eq!(read.text(), text);
    assert_eq!(read.hash(5), interface.hash(5));
    assert_ne!(interface.hash(4), interface.hash(5));
    assert_eq!(interface.docs(), "Where things are.");
    assert_eq!(interface.methods()[1].docs(), "Returns a place.");
}

#[test]
fn text_that_is_no_interface_names_its_line() {
    let read = |text: &str| text.parse::<Interface>().unwrap_err().to_string();
    assert_eq!(read(""), "line 1: expected `protocol` and a name");
    for line in ["cast Store(key: String", "cast Store(key)", "call Store()", "cast Store() -> u8", "Store()"]
    {
        let text = format!("protocol Places\n# the first\n\n{line}\n");
        assert_eq!(read(&text), "line 4: expected a method, as `Interface::text` writes it");
    }
}

fn interface(methods: &str) -> Interface {
    format!("protocol P\n{methods}").parse().unwrap()
}

/// What a service says of a client in bincode, and in JSON; empty where it accepts it.
fn accepts(service: &str, client: &str) -> [String; 2] {
    let (service, client) = (interface(service), interface(client));
    [Codec::Bincode, Codec::Json].map(|codec| match service.accepts(&client, codec) {
        Ok(()) => String::new(),
        Err(difference) => difference.to_string(),
    })
}

#[test]
fn compatible_changes_are_accepted() {
    let none = [String::new(), String::new()];
    assert_eq!(accepts("cast A(x: u8)\ncall B() -> u8", "cast A(x: u8)"), none);
    let (bincode, json) = (0, 1);
    let moved = accepts("call B() -> u8\ncast A(x: u8)", "cast A(x: u8)");
    assert_eq!(moved[json], "");
    assert_eq!(moved[bincode], "A: the service has B in this place");
    let more = accepts("cast A(x: u8, y: Option<u8>)", "cast A(x: u8)");
    assert_eq!(more[json], "");
    assert_eq!(more[bincode], "A: the client does not send the argument y");
    let less = accepts("cast A(x: u8)", "cast A(x: u8, y: u8)");
    assert_eq!(less[json], "");
    assert_eq!(less[bincode], "A: the service has no argument y");
}

#[test]
fn each_incompatible_change_is_named() {
    for (service, client, difference) in [
        ("cast A()", "cast A()\ncast B()", "B: the service has no such method"),
        ("cast A()", "call A() -> ()", "A: a cast at the service, and a call at the client"),
        ("cast A(x: u8, y: u8)", "cast A(x: u8)", "A: the client does not send the argument y"),
        ("cast A(x: u8)", "cast A(x: u16)", "A: the argument x is u8 at the service, and u16 at the client"),
        (
            "call A() -> Option<u8>",
            "call A() -> u8",
            "A: the reply is Option<u8> at the service, and u8 at the client",
        ),
        (
            "cast A(x: struct S{a: u8, b: Map<u8, (u8, u8)>})",
            "cast A(x: struct S{a: u8, b: Map<u8, (u8, u16)>})",
            "A: the argument x is struct S{a: u8, b: Map<u8, (u8, u8)>} at the service, and \
             struct S{a: u8, b: Map<u8, (u8, u16)>} at the client",
        ),
    ] {
        assert_eq!(accepts(service, client), [difference, difference]);
    }
}

#[derive(Schema)]
#[expect(dead_code, reason = "only described")]
struct Tree {
    leaf: Leaf,
    children: Vec<Self>,
    other: Leaf,
    #[serde(skip)]
    hidden: std::cell::Cell<u8>,
}

#[derive(Schema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only described")]
enum Leaf {
    NotThere,
    Number(u32),
    Pair(u8, char),
    #[serde(rename = "named", rename_all = "camelCase")]
    Named {
        first_name: String,
        #[serde(default)]
        ids: std::collections::HashSet<Id>,
    },
}

#[derive(PartialEq, Eq, Hash, Schema)]
struct Id(u64);

#[derive(Schema)]
#[expect(dead_code, reason = "only described")]
struct Page<T> {
    items: [T; 2],
}

#[test]
fn types_are_described_as_they_travel() {
    assert_eq!(
        describe::<Tree>(),
        "struct Tree{leaf: enum Leaf{not-there, number(u32), pair(u8, char), named{firstName: String, ids: \
         Vec<u64>}}, children: Vec<Tree>, other: Leaf}"
    );
    assert_eq!(describe::<Page<(u8, Id)>>(), "struct Page{items: [(u8, u64); 2]}");
    assert_eq!(describe::<std::sync::Arc<str>>(), "String");
    // Two types of one name are told apart wherever they occur.
    assert_eq!(
        describe::<(Page<u8>, Page<u16>, Page<u8>, Page<u16>)>(),
        "(struct Page{items: [u8; 2]}, struct Page'2{items: [u16; 2]}, Page, Page'2)"
    );
}

/// Message types of the protocol and others live side by side.
#[tokio::test(start_paused = true)]
async fn channel_of_other_types_wraps_its_messages() {
    let (client, mut server, _line) = testing::pair().open::<String, ()>().await.unwrap();
    client.remote().cast("hello").await.unwrap();
    let Some(Message::Cast(text)) = server.recv().await else { panic!("a cast") };
    assert_eq!(text, "hello");
}

#[tokio::test(start_paused = true)]
async fn kept_reply_tells_that_its_caller_gave_up() {
    let (client, mut server, _line) = testing::pair().open::<PlacesMessage, ()>().await.unwrap();
    let places = client.remote();
    let call = tokio::spawn(async move { places.within(Duration::from_secs(1)).ping().await });
    let Some(PlacesMessage::Ping { reply }) = server.recv().await else { panic!("a ping") };
    assert!(!reply.is_cancelled());
    assert!(call.await.unwrap().is_err());
    Reply::cancelled(&reply).await;
    assert!(reply.is_cancelled());
}

mod odd {
    use lib_chan::protocol;

    /// Names that the code of the macro uses too.
    #[protocol]
    pub(super) trait Odd {
        /// Does nothing.
        fn names(codec: u8, payload: u8, message: u8, wire: u8, f: u8, arguments: u8);
        /// Says which type it was given.
        async fn r#match(r#type: String) -> String;
    }
}

#[tokio::test(start_paused = true)]
async fn arguments_may_have_any_name() {
    use odd::{Odd, OddMessage};
    let (client, mut server, _line) =
        testing::pair().codec(Codec::Json).open::<OddMessage, ()>().await.unwrap();
    let remote = client.remote();
    remote.names(1, 2, 3, 4, 5, 6).await.unwrap();
    let Some(OddMessage::Names { codec, payload, message, wire, f, arguments }) = server.recv().await else {
        panic!("names")
    };
    assert_eq!([codec, payload, message, wire, f, arguments], [1, 2, 3, 4, 5, 6]);
    let call = tokio::spawn(async move { remote.r#match("u8").await });
    let Some(OddMessage::Match { r#type, reply }) = server.recv().await else { panic!("match") };
    reply.send(r#type);
    assert_eq!(call.await.unwrap(), Ok("u8".into()));
}
