//! A server with a configuration, clients with a password: what it is all for.

use chan_client::connect;
use chan_server::modules::name_server::{Lookup, Request, Store};
use chan_tests::{PASSWORD, Server, run};
use lib_chan::{Channel, secret::Password};

const NAME_SERVER: &str = r#"
[[service]]
name = "name_server"
password_file = "password"
mfa = ["name_server", "start_me_up"]
"#;

#[tokio::test]
async fn a_name_stored_in_json_is_looked_up_in_bincode_at_the_same_time() {
    let server = Server::start(NAME_SERVER);
    let password = Password::new(PASSWORD).unwrap();
    let url = server.url("name_server").to_owned();
    // This one is connected while the other stores.
    let chan: Channel<(), Request> = connect(url.as_str()).password(&password).open().await.unwrap();
    let remote = chan.remote();
    assert_eq!(remote.call(Lookup { key: "joe".into() }).await.unwrap(), None);

    let stored = run(server
        .client("cast", "name_server")
        .arg(r#"{"Store":{"key":"joe","value":"writing a book"}}"#));
    assert_eq!(stored, (Some(0), String::new(), String::new()));
    assert_eq!(remote.call(Lookup { key: "joe".into() }).await.unwrap(), Some("writing a book".into()));

    remote.cast(Store { key: "mike".into(), value: "on the radio".into() }).await.unwrap();
    remote.flush().await.unwrap();
    let (code, answer, complaint) =
        run(server.client("call", "name_server").arg(r#"{"Lookup":{"key":"mike"}}"#));
    assert_eq!((code, answer.as_str(), complaint.as_str()), (Some(0), "\"on the radio\"\n", ""));
    chan.close().await.unwrap();
}

#[test]
fn wrong_password_unknown_service_and_disabled_client_look_the_same_outside_and_not_in_the_log() {
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
    let right = server.url("echo for joe").to_owned();
    let wrong = server.folder.write("wrong", "a wrong password, long enough");
    let attempt = |url: &str, password: &std::path::Path| {
        let mut client = server.client("ping", "echo for joe");
        let file = password.to_owned();
        let mut client2 = std::process::Command::new(client.get_program());
        client2.arg("ping").arg(url).arg("--password-file").arg(file).env("HOME", server.folder.path());
        let _ = &mut client;
        run(&mut client2)
    };
    let refused: Vec<_> = [
        attempt(&right, &wrong),
        attempt(&right.replace("/echo", "/nothing"), &wrong),
        attempt(&right.replace("joe@", "mike@"), &wrong),
        attempt(&right.replace("joe@", "nobody@"), &wrong),
    ]
    .into();
    for refusal in &refused {
        assert_eq!(refusal.0, Some(5), "{refusal:?}");
        assert_eq!((&refusal.1, &refusal.2), (&refused[0].1, &refused[0].2));
    }
    let causes: Vec<_> = ["wrong proof", "unknown service", "disabled", "unknown client"].into();
    for cause in causes {
        server.log.wait(cause, |line| line.contains("login_failed") && line.to_lowercase().contains(cause));
    }
}
