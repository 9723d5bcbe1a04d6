//! Processes inside messages, over TLS and across a lost connection.

use std::{path::Path, process::Command, time::Duration};

use chan_client::connect;
use chan_server::modules::Modules;
use chan_tests::{Embedded, Proxy, run};
use lib_chan::{
    Address, CallFailure, Channel, ConnectionState, Event, Executed, ExitReason, Process, Remote, enter,
    protocol, spawn,
};

/// Hears of changes.
#[protocol]
pub trait Changes {
    /// Tells a change.
    fn changed(key: String);
    /// Returns the number of changes.
    async fn count() -> u64;
}

/// A store of keys.
#[protocol]
pub trait Keys {
    /// Tells `watcher` of each key that is stored later.
    async fn watch(watcher: Address<ChangesMessage>);
    /// Stores a key.
    async fn store(key: String);
    /// Returns what the watchers have counted.
    async fn counted() -> u64;
    /// Returns a process of the service that counts.
    async fn counter() -> Address<ChangesMessage>;
}

async fn counter(mut me: Process<ChangesMessage>) -> Result<(), ExitReason> {
    let mut count = 0;
    loop {
        match me.recv().await {
            Event::Message(ChangesMessage::Changed { key }) if key == "last" => return Ok(()),
            Event::Message(ChangesMessage::Changed { .. }) => count += 1,
            Event::Message(ChangesMessage::Count { reply }) => reply.send(count),
            _ => {}
        }
    }
}

async fn keys(mut chan: Channel<KeysMessage, ()>) -> Result<(), ExitReason> {
    let mut watchers: Vec<Address<ChangesMessage>> = Vec::new();
    while let Some(message) = chan.recv().await {
        match message {
            KeysMessage::Watch { watcher, reply } => {
                watchers.push(watcher);
                reply.send(());
            }
            KeysMessage::Store { key, reply } => {
                for watcher in &watchers {
                    watcher.changed(&key).await?;
                }
                reply.send(());
            }
            KeysMessage::Counted { reply } => {
                let mut counted = 0;
                for watcher in &watchers {
                    counted += watcher.count().await?;
                }
                reply.send(counted);
            }
            KeysMessage::Counter { reply } => reply.send(spawn(counter)),
        }
    }
    Ok(())
}

fn server() -> Embedded {
    Embedded::start(Modules::new().service("test", "keys", keys), &["keys"], "")
}

#[tokio::test]
async fn process_in_message_is_used_over_tls() {
    let server = server();
    let chan: Channel<(), KeysMessage> = server.open("keys").await;
    let keys = chan.remote();
    let told = enter(async |mut me: Process<ChangesMessage>| {
        keys.watch(me.address()).await?;
        keys.store("joe").await?;
        match me.recv().await {
            Event::Message(ChangesMessage::Changed { key }) => Ok(key),
            other => Err(ExitReason::failed(format!("{other:?}"))),
        }
    });
    assert_eq!(told.await, Ok("joe".into()));
    let counter = keys.counter().await.unwrap();
    let ended = counter.pid().ended();
    counter.changed("one").await.unwrap();
    assert_eq!(counter.count().await, Ok(1));
    counter.changed("last").await.unwrap();
    assert_eq!(ended.await, ExitReason::Normal);
    assert_eq!(counter.count().await.unwrap_err().executed, Executed::No);
    chan.close().await.unwrap();
}

/// Waits until the session has a connection of this number.
async fn connected(remote: &Remote<KeysMessage>, number: u64) {
    let mut state = remote.connection();
    while !matches!(state, ConnectionState::Attached { epoch, .. } if epoch >= number) {
        state = remote.connection_changed(state).await.expect("the session lives");
    }
}

#[tokio::test]
async fn handles_survive_lost_connection() {
    let server = server();
    let proxy = Proxy::before(&server.url("keys"));
    let open = connect(proxy.url(&server.url("keys"))).key(server.key()).resume(Duration::from_secs(60));
    let chan: Channel<(), KeysMessage> = open.open().await.unwrap();
    let (keys, mine) = (chan.remote(), spawn(counter));
    keys.watch(mine.clone()).await.unwrap();
    let theirs = keys.counter().await.unwrap();
    for cut in 1..=5 {
        proxy.cut();
        // Goes out with the next connection.
        let stored = keys.store("joe");
        let told = theirs.changed("joe");
        let (stored, told) = tokio::join!(stored, told);
        stored.unwrap();
        told.unwrap();
        connected(&keys, cut + 1).await;
        assert_eq!((theirs.count().await.unwrap(), mine.count().await.unwrap()), (cut, cut));
        assert_eq!(keys.counted().await, Ok(cut));
    }
    // Dropped while there is no connection, and never handed out again.
    proxy.cut();
    drop(theirs);
    keys.store("joe").await.unwrap();
    let again = keys.counter().await.unwrap();
    assert_eq!(again.count().await, Ok(0));
    chan.close().await.unwrap();
    let gone = again.count().await.unwrap_err();
    assert_eq!((gone.executed, gone.reason), (Executed::No, CallFailure::Exit(ExitReason::Normal)));
}

#[test]
fn python_client_hands_out_and_calls_processes() {
    let Some(python) = super::python::python() else { return };
    let server = server();
    let known = serde_json::json!({
        "keys": server.url("keys"),
        "key_file": server.folder.path().join("key"),
    });
    let mut client = Command::new(python);
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/test_client.py")).args(["-v", "Handles"]);
    client.env("CHAN_TEST", known.to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
    let (code, out, complaints) = run(&mut client);
    assert_eq!(code, Some(0), "{out}\n{complaints}");
    assert!(!complaints.contains("Ran 0 tests"), "{complaints}");
}
