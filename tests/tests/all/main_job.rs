//! A server with a configuration, clients with a password: what it is all for.

use chan_client::connect;
use chan_server::modules::name_server::{Names, NamesMessage};
use chan_tests::{PASSWORD, Server, run};
use lib_chan::{Channel, secret::Password};

const NAME_SERVER: &str = r#"
[[service]]
name = "name_server"
password_file = "password"
mfa = ["name_server", "start_me_up"]
"#;

#[tokio::test]
async fn json_and_bincode_clients_share_names() {
    let server = Server::start(NAME_SERVER);
    let password = Password::new(PASSWORD).unwrap();
    let url = server.url("name_server").to_owned();
    // This one is connected while the other stores.
    let chan: Channel<(), NamesMessage> = connect(url.as_str()).password(&password).open().await.unwrap();
    let remote = chan.remote();
    assert_eq!(remote.lookup("joe").await.unwrap(), None);

    let stored =
        run(server.client("cast", "name_server").arg(r#"{"Store":{"key":"joe","value":"writing a book"}}"#));
    assert_eq!(stored, (Some(0), String::new(), String::new()));
    assert_eq!(remote.lookup("joe").await.unwrap(), Some("writing a book".into()));

    remote.store("mike", "on the radio").await.unwrap();
    remote.flush().await.unwrap();
    let (code, answer, complaint) =
        run(server.client("call", "name_server").arg(r#"{"Lookup":{"key":"mike"}}"#));
    assert_eq!((code, answer.as_str(), complaint.as_str()), (Some(0), "\"on the radio\"\n", ""));
    chan.close().await.unwrap();
}

#[test]
fn describes_the_name_server() {
    let server = Server::start(NAME_SERVER);
    let (code, shown, _) = run(&mut server.client("describe", "name_server"));
    assert_eq!(code, Some(0));
    assert!(shown.contains("\ncast Store(key: String, value: String)\n"), "{shown}");
    assert!(shown.contains("\ncall Lookup(key: String) -> Option<String>\n"), "{shown}");
}

#[test]
fn ping_logs_in_and_disconnects() {
    let server = Server::start(NAME_SERVER);
    assert_eq!(run(&mut server.client("ping", "name_server")).0, Some(0));
    assert_eq!(server.event("session_ended")["reason"], "normal");
}

#[test]
fn refused_logins_differ_only_in_log() {
    let server = Server::start(
        r#"
[[service]]
name = "echo"
mfa = ["echo", "start"]
[[service.client]]
name = "joe"
password_file = "password"
[[service.client]]
name = "mike"
password = "another fine password"
disabled = true
"#,
    );
    let url = server.url("echo for joe");
    let right = server.folder.path().join("password");
    let wrong = server.folder.write("wrong", "a wrong password, long enough");
    let mike = server.folder.write("mike", "another fine password");
    let refused = [
        (url.to_owned(), &wrong, "wrong proof"),
        (url.replace("/echo", "/nothing"), &right, "unknown service"),
        (url.replace("joe@", "nobody@"), &right, "unknown client"),
        (url.replace("joe@", "mike@"), &mike, "disabled"),
    ]
    .map(|(url, password, cause)| {
        let refused = run(&mut server.client_at("ping", &url, password));
        server.log.wait(cause, |line| line.contains("login_failed") && line.contains(cause));
        refused
    });
    for refusal in &refused {
        assert_eq!(refusal.0, Some(5), "{refusal:?}");
        assert_eq!((&refusal.1, &refusal.2), (&refused[0].1, &refused[0].2));
    }
}
