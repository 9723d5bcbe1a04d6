//! Clients and services with different versions of a protocol.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use chan_client::connect::{Connect, ConnectError, Step, connect};
use chan_server::{
    Server,
    audit::{Audit, Format},
    config::{Config, Service},
    identity::StateDir,
    modules::Modules,
};
#[cfg(target_os = "linux")]
use chan_tests::Terminal;
use chan_tests::{Embedded, Folder, client_key, run};
use lib_chan::{
    Channel, Opaque,
    payload::Codec::{self, Bincode, Json},
    protocol,
    protocol::{Interface, Protocol, Schema},
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Schema)]
pub(crate) struct Place {
    north: i32,
    east: i32,
}

/// A store of places.
#[protocol]
pub(crate) trait Places {
    /// Remembers `place` under `key`.
    fn store(key: String, place: Place);
    /// Returns the place of `key`.
    /// Without `exact`, `key` may be the beginning of a name.
    async fn lookup(key: String, exact: Option<bool>) -> Option<i32>;
    /// Counts.
    async fn count() -> u64;
}

/// A server of `places`, and the number of times that the service was started.
fn server() -> (Embedded, Arc<AtomicUsize>) {
    let starts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&starts);
    let places = move |mut chan: Channel<PlacesMessage, ()>| {
        count.fetch_add(1, Relaxed);
        async move {
            let mut places = Vec::new();
            while let Some(message) = chan.recv().await {
                match message {
                    PlacesMessage::Store { key, place } => places.push((key, place)),
                    PlacesMessage::Lookup { key, reply, exact: _ } => {
                        let found = places.iter().find(|(other, _)| *other == key);
                        reply.send(found.map(|(_, place)| place.north));
                    }
                    PlacesMessage::Count { reply } => reply.send(places.len() as u64),
                }
            }
            Ok(())
        }
    };
    let raw = |mut chan: Channel<Opaque>| async move {
        while chan.recv().await.is_some() {}
        Ok(())
    };
    let modules = Modules::new().service("test", "places", places).service("test", "untyped", raw);
    (Embedded::start(modules, &["places", "untyped"], ""), starts)
}

type Used = Pin<Box<dyn Future<Output = Result<Option<i32>, ConnectError>>>>;

/// Another version of the protocol, and a use of it, which returns 47 if the service has understood everything.
macro_rules! version {
    ($name:ident: { $($methods:tt)* } $places:ident => $use:expr) => {
        mod $name {
            use super::*;

            /// Other words.
            #[protocol]
            pub(super) trait Other {
                $($methods)*
            }

            pub(super) fn used(open: Connect<'static>) -> Used {
                Box::pin(async move {
                    let chan = open.open::<(), OtherMessage>().await?;
                    let $places = chan.remote();
                    let used: Result<_, lib_chan::ExitReason> = async { Ok($use) }.await;
                    Ok(used.expect("the service understands"))
                })
            }
        }
    };
}

const fn place() -> Place {
    Place { north: 47, east: 8 }
}

#[derive(Serialize, Deserialize, Schema)]
pub(crate) struct Spot {
    north: i32,
}

version!(same: {
    fn store(key: String, place: Place);
    async fn lookup(key: String, exact: Option<bool>) -> Option<i32>;
    async fn count() -> u64;
} places => { places.store("a", place()).await?; assert_eq!(places.count().await, Ok(1)); places.lookup("a", None).await? });
version!(older: {
    fn store(key: String, place: Place);
    async fn lookup(key: String, exact: Option<bool>) -> Option<i32>;
} places => { places.store("a", place()).await?; places.lookup("a", Some(true)).await? });
version!(newer: {
    fn store(key: String, place: Place);
    async fn lookup(key: String, exact: Option<bool>) -> Option<i32>;
    async fn count() -> u64;
    fn forget(key: String);
} places => { places.forget("a").await?; None });
version!(inserted: {
    fn store(key: String, place: Place);
    async fn count() -> u64;
} places => { places.store("a", place()).await?; Some(46 + places.count().await? as i32) });
version!(reordered: {
    async fn lookup(key: String, exact: Option<bool>) -> Option<i32>;
    fn store(key: String, place: Place);
} places => { places.store("a", place()).await?; places.lookup("a", None).await? });
version!(renamed: {
    fn save(key: String, place: Place);
} places => { places.save("a", place()).await?; None });
version!(other_reply: {
    fn store(key: String, place: Place);
    async fn lookup(key: String, exact: Option<bool>) -> Option<i64>;
} places => places.lookup("a", None).await?.map(|found| found as i32));
version!(call_for_cast: {
    async fn store(key: String, place: Place);
} places => { places.store("a", place()).await?; None });
version!(cast_for_call: {
    fn store(key: String, place: Place);
    fn lookup(key: String, exact: Option<bool>);
} places => { places.lookup("a", None).await?; None });
version!(other_argument: {
    fn store(key: u64, place: Place);
} places => { places.store(1, place()).await?; None });
version!(other_field: {
    fn store(key: String, place: Spot);
} places => { places.store("a", Spot { north: 47 }).await?; None });
version!(renamed_argument: {
    fn store(name: String, place: Place);
} places => { places.store("a", place()).await?; None });
version!(swapped_arguments: {
    fn store(place: Place, key: String);
    async fn lookup(key: String, exact: Option<bool>) -> Option<i32>;
} places => { places.store(place(), "a").await?; places.lookup("a", None).await? });
version!(missing_argument: {
    fn store(key: String);
} places => { places.store("a").await?; None });
version!(missing_option: {
    fn store(key: String, place: Place);
    async fn lookup(key: String) -> Option<i32>;
} places => { places.store("a", place()).await?; places.lookup("a").await? });
version!(further_argument: {
    fn store(key: String, place: Place, days: u32);
    async fn lookup(key: String, exact: Option<bool>) -> Option<i32>;
} places => { places.store("a", place(), 1).await?; places.lookup("a", None).await? });

/// The outcome of a row of the table.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The service started after this number of logins, and understood everything.
    Works(usize),
    Refused(String),
}

/// A name, a client, and its outcome in bincode and in JSON.
type Row = (&'static str, fn(Connect<'static>) -> Used, (Outcome, Outcome));

async fn outcome(server: &Embedded, codec: Codec, used: fn(Connect<'static>) -> Used) -> Outcome {
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    let open = connect(server.url("places")).key(client_key()).codec(codec).on_step(move |step| {
        if matches!(step, Step::LoggedIn { .. }) {
            count.fetch_add(1, Relaxed);
        }
    });
    match used(open).await {
        Ok(found) => {
            assert_eq!(found, Some(47), "the service understands another value");
            Outcome::Works(logins.load(Relaxed))
        }
        Err(error) => {
            assert_eq!(logins.load(Relaxed), 1);
            let text = error.to_string();
            let named = text.strip_prefix("refused: the service has another protocol: ");
            Outcome::Refused(named.unwrap_or(&text).into())
        }
    }
}

#[tokio::test]
async fn each_change_of_a_protocol_works_or_is_refused_by_name() {
    const PLACE: &str = "struct Place{north: i32, east: i32}";
    let works = Outcome::Works;
    let refused = |text: &str| Outcome::Refused(text.into());
    let both = |text: &str| (refused(text), refused(text));
    let table: Vec<Row> = vec![
        ("same", same::used, (works(1), works(1))),
        ("older", older::used, (works(1), works(1))),
        ("newer", newer::used, both("Forget: the service has no such method")),
        ("inserted", inserted::used, (refused("Count: the service has Lookup in this place"), works(2))),
        ("reordered", reordered::used, (refused("Lookup: the service has Store in this place"), works(2))),
        (
            "renamed",
            renamed::used,
            (
                refused("Save: the service has Store in this place"),
                refused("Save: the service has no such method"),
            ),
        ),
        (
            "other reply",
            other_reply::used,
            both("Lookup: the reply is Option<i32> at the service, and Option<i64> at the client"),
        ),
        (
            "call for cast",
            call_for_cast::used,
            both("Store: a cast at the service, and a call at the client"),
        ),
        (
            "cast for call",
            cast_for_call::used,
            both("Lookup: a call at the service, and a cast at the client"),
        ),
        (
            "other argument",
            other_argument::used,
            both("Store: the argument key is String at the service, and u64 at the client"),
        ),
        (
            "other field",
            other_field::used,
            both(&format!(
                "Store: the argument place is {PLACE} at the service, and struct Spot{{north: i32}} at the client"
            )),
        ),
        (
            "renamed argument",
            renamed_argument::used,
            (
                refused("Store: argument 1 is key at the service, and name at the client"),
                refused("Store: the client does not send the argument key"),
            ),
        ),
        (
            "swapped arguments",
            swapped_arguments::used,
            (refused("Store: argument 1 is key at the service, and place at the client"), works(2)),
        ),
        (
            "missing argument",
            missing_argument::used,
            both("Store: the client does not send the argument place"),
        ),
        (
            "missing option",
            missing_option::used,
            (refused("Lookup: the client does not send the argument exact"), works(2)),
        ),
        (
            "further argument",
            further_argument::used,
            (refused("Store: the service has no argument days"), works(2)),
        ),
    ];
    let (server, starts) = server();
    for (name, used, (bincode, json)) in table {
        for (codec, wanted) in [(Bincode, bincode), (Json, json)] {
            let before = starts.load(Relaxed);
            assert_eq!(outcome(&server, codec, used).await, wanted, "{name} in {codec}");
            let started = starts.load(Relaxed) - before;
            assert_eq!(started, usize::from(matches!(wanted, Outcome::Works(_))), "{name} in {codec}");
        }
    }
}

/// The messages of a client without a protocol.
#[derive(Serialize, Deserialize)]
enum ByHand {
    Count {},
}

impl lib_chan::Call for ByHand {
    type Reply = u64;
}

#[tokio::test]
async fn ends_without_protocol_are_not_checked() {
    let (server, _) = server();
    for codec in [Bincode, Json] {
        let open = || connect(server.url("untyped")).key(client_key()).codec(codec);
        open().open::<(), PlacesMessage>().await.unwrap();
        let open = connect(server.url("places")).key(client_key()).codec(Json);
        let chan = open.open::<(), ByHand>().await.unwrap();
        assert_eq!(chan.remote().call(ByHand::Count {}).await, Ok(0));
    }
}

#[tokio::test]
async fn service_describes_its_protocol_and_does_not_start() {
    let (server, starts) = server();
    let described = connect(server.url("places")).key(client_key()).describe().await.unwrap();
    assert_eq!(&described, PlacesMessage::interface());
    assert_eq!(described.methods()[1].docs().lines().count(), 2);
    assert_eq!(starts.load(Relaxed), 0);
    let refused = connect(server.url("untyped")).key(client_key()).describe().await.unwrap_err();
    assert_eq!(refused.to_string(), "refused: the service has no protocol");
}

#[tokio::test]
async fn hidden_protocol_is_told_to_nobody() {
    let folder = Folder::new();
    let places = |mut chan: Channel<PlacesMessage, ()>| async move {
        while chan.recv().await.is_some() {}
        Ok(())
    };
    let service = Service::new("places", places).unwrap().client("joe", client_key().public_key()).unwrap();
    let config = Config::new(["127.0.0.1:0".parse().unwrap()]).service(service.hide_protocol());
    let state = StateDir::at(folder.path().join("state"));
    let server = Server::bind(config, &state, Audit::to(std::io::sink(), Format::Json)).await.unwrap();
    let url = server.urls()[0].url.clone();
    let open = || connect(url.as_str()).key(client_key());
    open().open::<(), PlacesMessage>().await.unwrap();
    let refused = open().open::<(), newer::OtherMessage>().await.unwrap_err().to_string();
    assert_eq!(refused, "refused: the service has another protocol, and does not show it");
    let refused = open().describe().await.unwrap_err().to_string();
    assert_eq!(refused, "refused: the service does not show its protocol");
}

#[test]
fn command_describes_a_service() {
    let (server, starts) = server();
    let (code, text, complaint) = run(&mut server.client("describe", "places"));
    assert_eq!(code, Some(0), "{complaint}");
    assert!(
        text.starts_with(
            "# A store of places.\nprotocol Places\n# Remembers `place` under `key`.\ncast Store("
        ),
        "{text}"
    );
    let parsed: Interface = text.parse().unwrap();
    assert_eq!(&parsed, PlacesMessage::interface());
    let (code, json, complaint) = run(server.client("describe", "places").arg("--json"));
    assert_eq!(code, Some(0), "{complaint}");
    let described: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(described["methods"][2]["reply"], "u64");
    let (code, _, complaint) = run(&mut server.client("describe", "untyped"));
    assert_eq!(code, Some(6));
    assert!(complaint.contains("the service has no protocol"), "{complaint}");
    assert_eq!(starts.load(Relaxed), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn repl_completes_methods() {
    let (server, _) = server();
    let mut terminal = Terminal::start(&server.client("repl", "places"));
    terminal.see_prompt();
    loop {
        terminal.type_keys("?\n");
        if terminal.see("like Ctrl-D").contains("call Lookup(") {
            break;
        }
    }
    terminal.type_keys("cou\t");
    terminal.see("{\"Count\":{}}");
    terminal.type_keys("\n");
    terminal.see("0\r\n> ");
    terminal.type_keys("quit\n");
    assert_eq!(terminal.ended(), 0);
}
