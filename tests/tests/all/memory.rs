//! What the server's memory comes to while peers do their worst, and after it.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use chan_tests::{PASSWORD, PATIENCE, Running, Server, client_key, login, program, run};
use lib_chan::{
    login::Credential,
    payload::Codec,
    secret::Password,
    wire::{Frame, Terms},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_rustls::client::TlsStream;

/// The memory that a process uses now, in KiB.
fn resident(id: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line about memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn stopped_peers_cost_only_their_windows() {
    const CLIENTS: usize = 8;
    // Behind the service somebody who never stops talking, and says when nobody takes it any more.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    let total = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&total);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (tell, counted) = (tell.clone(), Arc::clone(&counted));
            stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            thread::spawn(move || {
                while let Ok(len) = stream.write(&[0; 64 * 1024]) {
                    counted.fetch_add(len, Ordering::Relaxed);
                }
                let _ = tell.send(());
                // The connection stays.
                let _ = std::io::Read::read(&mut stream, &mut [0]);
            });
        }
    });
    let server = Server::start(&format!(
        "[[service]]\nname = 's'\nmfa = ['tcp', 'connect', '127.0.0.1:{port}']\n\
         [[service.client]]\nname = 'joe'\nkey = '{}'",
        client_key().public_key()
    ));
    let key = server.folder.write("key", &client_key().to_file_contents());
    let before = resident(server.id());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = std::process::Command::new(program("chan-client"));
            client.args(["pipe", server.url("s for joe"), "--key-file"]).arg(&key);
            Running::start_unread(client)
        })
        .collect();
    server.log.wait_for("all sessions", |lines| {
        lines.iter().filter(|line| line.contains("session_started")).count() == CLIENTS
    });
    for client in &clients {
        client.signal("STOP");
    }
    for _ in 0..CLIENTS {
        told.recv_timeout(PATIENCE).expect("everything is full at last");
    }
    let used = resident(server.id()).saturating_sub(before);
    // A window, a read buffer, a TLS record on its way and the tasks: under 1 MiB each, whatever was sent.
    assert!(used < CLIENTS * 1024 + 4096, "{used} KiB for {CLIENTS} stopped peers");
    assert!(total.load(Ordering::Relaxed) > CLIENTS * 256 * 1024, "the windows were filled");
    assert!(!server.log.all().iter().any(|line| line.contains("session_ended")), "they were all still there");
}

/// Opens a session, and sends a call whose answer is not read, and a frame that wants its last byte. Each is as long as a
/// frame may be.
async fn holds(url: &str, credential: Credential<'_>, from: Ipv4Addr) -> TlsStream<TcpStream> {
    const MIB: usize = 1 << 20;
    let (mut stream, _proof) = login(url, credential, from).await.expect("a login");
    let terms = Terms { max_calls: 1024, max_links: 1024, max_handles: 0 };
    let mut frames = Vec::new();
    let (max_frame_len, window_len) = (MIB as u64, 256 * 1024);
    Frame::Start {
        codec: Codec::Raw.code(),
        terms,
        max_frame_len,
        window_len,
        resume: 0,
        interface: None,
        args: b"",
    }
    .put(&mut frames);
    stream.write_all(&frames).await.unwrap();
    assert!(stream.read(&mut [0; 64]).await.unwrap() > 0, "it is started");
    frames.clear();
    let payload = vec![0; MIB - 64];
    Frame::Call { to: 0, call: 1, left: 600_000, payload: &payload }.put(&mut frames);
    Frame::Call { to: 0, call: 2, left: 600_000, payload: &payload }.put(&mut frames);
    // A server that has no room for it ends the session.
    let _ = stream.write_all(&frames[..frames.len() - 1]).await;
    let _ = stream.flush().await;
    stream
}

fn ends(server: &Server) -> usize {
    server.log.all().iter().filter(|line| line.contains("session_ended")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_returns_to_the_system_after_a_burst() {
    const SESSIONS: usize = 250;
    let server =
        Server::start("[[service]]\nname = 's'\npassword_file = 'password'\nmfa = ['echo', 'start']");
    let password = Password::new(PASSWORD).unwrap();
    let (url, credential) = (server.url("s"), Credential::Password(&password));
    drop(login(url, credential, Ipv4Addr::LOCALHOST).await.unwrap());
    let before = resident(server.id());
    let mut held = Vec::new();
    // One source alone would be short of room before it had taken much.
    for n in 0..SESSIONS {
        held.push(holds(url, credential, Ipv4Addr::new(127, 1, 0, n as u8)).await);
    }
    let during = resident(server.id());
    eprintln!("{before} KiB before, {during} KiB during the burst");
    drop(held);
    let began = Instant::now();
    while ends(&server) < SESSIONS || resident(server.id()) > before + 32 * 1024 {
        let after = resident(server.id());
        assert!(began.elapsed() < PATIENCE, "{before} KiB before, {during} during, {after} after");
        sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{} KiB after {:?}", resident(server.id()), began.elapsed());
    assert!(during > before + 100 * 1024, "{before} KiB before, {during} during");
}

/// Lets so many sources log in with one password, each of which holds as much as it can, and gives how many KiB the
/// server has more while all of them are there.
async fn grown_by(sources: usize, limits: &str) -> usize {
    let server = Server::start(&format!(
        "[limits]\n{limits}\n[[service]]\nname = 's'\npassword_file = 'password'\nmfa = ['echo', 'start']"
    ));
    let password = Password::new(PASSWORD).unwrap();
    let (url, credential) = (server.url("s"), Credential::Password(&password));
    drop(login(url, credential, Ipv4Addr::LOCALHOST).await.unwrap());
    let before = resident(server.id());
    let mut held = Vec::new();
    for n in 0..sources {
        let [.., high, low] = n.to_be_bytes();
        held.push(holds(url, credential, Ipv4Addr::new(127, 1, high, low)).await);
    }
    let grown = resident(server.id()).saturating_sub(before);
    // The server took as much as it has room for, and told others why they were ended. Honest clients are served.
    server.log.wait("an end for want of room", |line| line.contains("\"reason\":\"overload\""));
    let (code, _, err) = run(&mut server.client("ping", "s"));
    assert_eq!(code, Some(0), "{err}");
    grown
}

#[tokio::test]
async fn sources_together_stay_within_bound() {
    const SOURCES: usize = 60;
    // Without the bound 60 MiB of frames that came in part, and as much of answers.
    let grown = grown_by(SOURCES, "max_held_in_all = '8 MiB'\nmax_sessions = 100").await;
    // A session itself, with its TLS and its buffers, is less than 128 KiB.
    assert!(grown < 8 * 1024 + SOURCES * 128, "{grown} KiB");
}

#[tokio::test]
async fn one_source_leaves_room_to_others() {
    let server = Server::start(
        "[limits]\nmax_held_in_all = '64 MiB'\nmax_sessions = 100\n\
         [[service]]\nname = 's'\npassword_file = 'password'\nmfa = ['echo', 'start']",
    );
    let password = Password::new(PASSWORD).unwrap();
    let (url, credential) = (server.url("s"), Credential::Password(&password));
    let mut held = Vec::new();
    // Without a share of its own, 60 MiB of frames that came in part, and as much of answers.
    for _ in 0..60 {
        held.push(holds(url, credential, Ipv4Addr::new(127, 1, 0, 1)).await);
    }
    server.log.wait("an end for want of room", |line| line.contains("\"reason\":\"overload\""));
    let mut other = holds(url, credential, Ipv4Addr::new(127, 1, 0, 2)).await;
    let mut answer = vec![0; (1 << 20) - 64];
    other.read_exact(&mut answer).await.expect("a whole answer");
}

#[tokio::test]
#[ignore = "takes minutes, and 2 000 descriptors"]
async fn two_thousand_sources_stay_within_bound() {
    const SOURCES: usize = 2000;
    let grown = grown_by(SOURCES, "").await;
    eprintln!("{grown} KiB more with {SOURCES} sources");
    assert!(grown < 512 * 1024 + SOURCES * 128, "{grown} KiB");
}
