//! Many connections of `chan-client forward` in one session.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    process::Command,
    thread,
    time::Duration,
};

use bytes::Bytes;
use chan_client::connect;
use chan_server::modules::Modules;
use chan_tests::{Embedded, Folder, PASSWORD, Running, Server, program, run};
use lib_chan::{
    CallFailure, Channel, Event, ExitReason, Process, Rights, enter,
    payload::Codec,
    relay::{MAX_PIECE_LEN, Pieces, PiecesMessage, Relay, Streams, StreamsMessage},
    secret::Password,
    spawn,
};

use super::relay::{ask, flooding, forward_by, in_front_of, in_front_of_port, listen, local, stalled};

/// A target that returns what it gets.
fn echo() -> u16 {
    listen(|mut stream| {
        thread::spawn(move || {
            let mut back = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut stream, &mut back);
            let _ = back.shutdown(Shutdown::Write);
        });
    })
}

/// Waits until this many sessions have started, and checks that there were no more.
fn assert_sessions(server: &Server, started: usize) {
    server.log.wait_for("the starts of sessions", |lines| {
        lines.iter().filter(|line| line.contains("session_started")).count() == started
    });
}

#[test]
fn connections_share_a_session() {
    let server = in_front_of_port(echo());
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut locals: Vec<_> = (0..100).map(|_| local(&port)).collect();
    for round in 0..3 {
        for (n, local) in locals.iter_mut().enumerate() {
            ask(local, format!("{n} {round}").as_bytes());
        }
    }
    assert_sessions(&server, 1);
}

#[test]
fn isolated_connections_have_a_session_each() {
    let server = in_front_of_port(echo());
    let (_forward, port) = forward_by(&server, server.url("s"), &["--isolate"]);
    let mut locals: Vec<_> = (0..3).map(|_| local(&port)).collect();
    locals.iter_mut().for_each(|local| ask(local, b"hello"));
    assert_sessions(&server, 3);
}

/// `echo` speaks any codec, but knows nothing of streams.
#[test]
fn service_of_one_stream_gets_a_session_for_each() {
    let server = in_front_of("['echo', 'start']");
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut locals: Vec<_> = (0..2).map(|_| local(&port)).collect();
    locals.iter_mut().for_each(|local| ask(local, b"hello"));
    assert_sessions(&server, 2);
}

#[test]
fn stalled_stream_holds_up_no_other() {
    let server = in_front_of_port(flooding());
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let stalled: Vec<_> = (0..3).map(|_| stalled(&port)).collect();
    let mut locals: Vec<_> = (0..97).map(|_| local(&port)).collect();
    for _ in 0..3 {
        locals.iter_mut().for_each(|local| ask(local, b"hello"));
    }
    drop(stalled);
    assert_sessions(&server, 1);
}

#[test]
fn streams_count_as_sessions_of_their_client() {
    let limits = "[limits]\nmax_sessions_per_client = 3";
    let server = in_front_of(&format!("['tcp', 'connect', '127.0.0.1:{}']\n{limits}", echo()));
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut locals: Vec<_> = (0..2).map(|_| local(&port)).collect();
    locals.iter_mut().for_each(|local| ask(local, b"hello"));
    let refused = local(&port).read(&mut [0]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    let bound = "this client has too many sessions (max_sessions_per_client)";
    let complaint = forward.err.wait("the refusal", |line| line.contains(bound));
    assert_eq!(complaint, format!("chan-client: refused: {bound}; ask the server's operator"));
    assert_eq!(server.event("session_refused")["why"], bound);
    // The place comes back with the end of a stream.
    locals.pop().unwrap().shutdown(Shutdown::Write).unwrap();
    server.event("stream_ended");
    ask(&mut local(&port), b"hello");
}

#[test]
fn idle_session_is_closed_when_the_server_drains() {
    let mut server = in_front_of_port(echo());
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut busy = local(&port);
    ask(&mut busy, b"hello");
    server.signal("TERM");
    server.event("draining");
    ask(&mut busy, b"the stream goes on");
    busy.shutdown(Shutdown::Write).unwrap();
    assert_eq!(busy.read(&mut [0]).unwrap(), 0);
    assert_eq!(server.event("session_ended")["reason"], "normal");
    assert!(server.wait().success());
    assert_eq!(forward.err.all(), Vec::<String>::new());
}

#[test]
fn lost_session_is_reported_once() {
    let server = in_front_of_port(echo());
    let (forward, port) = forward_by(&server, server.url("s"), &["--resume", "0"]);
    let mut locals: Vec<_> = (0..5).map(|_| local(&port)).collect();
    locals.iter_mut().for_each(|local| ask(local, b"hello"));
    server.signal("KILL");
    for mut local in locals {
        assert_eq!(local.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let line = forward.err.wait("the end", |line| line.contains("the connection was lost"));
    assert_eq!(line, "chan-client: the connection was lost; connect again (its open connections were reset)");
    assert_eq!(forward.err.all().len(), 1, "{:#?}", forward.err.all());
}

#[test]
fn interrupted_forward_resets_its_streams() {
    let server = in_front_of_port(echo());
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut open = local(&port);
    ask(&mut open, b"hello");
    forward.signal("INT");
    assert_eq!(open.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(forward.code(), Some(0));
    assert_eq!(server.event("session_ended")["reason"], "normal");
}

#[test]
fn interrupted_idle_forward_ends_its_session() {
    for _ in 0..3 {
        let server = in_front_of_port(echo());
        let (forward, _) = forward_by(&server, server.url("s"), &[]);
        forward.signal("INT");
        assert_eq!(forward.code(), Some(0));
        assert_eq!(server.event("session_ended")["reason"], "normal");
    }
}

#[test]
fn small_frames_carry_long_streams() {
    let limits = "[limits]\nmax_frame_len = '1 KiB'";
    let server = in_front_of(&format!("['tcp', 'connect', '127.0.0.1:{}']\n{limits}", echo()));
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut local = local(&port);
    let text: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let mut sending = local.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            sending.write_all(&text).unwrap();
            sending.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        local.read_to_end(&mut back).unwrap();
        assert!(back == text, "{} bytes came back", back.len());
    });
}

/// The protocol asks a server to link the two processes of a stream. One that does not must not leave connections hanging.
#[test]
fn forward_notices_end_of_unlinked_process() {
    let modules = Modules::new().function_for(
        &[Codec::Bincode],
        "test",
        "rude",
        |_: Process, mut chan: Channel<StreamsMessage, ()>, _: String, (): ()| async move {
            while let Some(StreamsMessage::Open { client, reply, .. }) = chan.recv().await {
                client.piece(Bytes::from_static(b"hello")).await?;
                reply.send(spawn(async |_: Process<PiecesMessage>| Err(ExitReason::failed("rude"))));
            }
            Ok(())
        },
    );
    let server = Embedded::start(modules, &["rude"], "");
    let mut forward = Command::new(program("chan-client"));
    forward.args(["forward", "0", &server.url("rude"), "--key-file"]).arg(server.folder.path().join("key"));
    let forward = Running::start(forward);
    let line = forward.out.wait("listening", |line| line.starts_with("listening"));
    let mut local = local(line.rsplit(':').next().unwrap());
    let ended = local.read_to_end(&mut Vec::new());
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn stream_needs_a_process_of_the_client_and_a_short_first_piece() {
    let server = in_front_of_port(echo());
    let connect = connect(server.url("s")).password(Password::new(PASSWORD).unwrap()).args(&"streams");
    let chan = connect.open::<(), StreamsMessage>().await.unwrap();
    let ended = enter(async |me: Process<PiecesMessage>| {
        me.trap_exit(true);
        let client = me.address().grant(Rights { link: true, ..Rights::default() });
        let far = chan.remote().open(Bytes::new(), client.clone()).await?;
        for (first, client) in [(Bytes::new(), far), (Bytes::from(vec![7; MAX_PIECE_LEN + 1]), client)] {
            let refused = chan.remote().open(first, client).await.unwrap_err();
            assert!(matches!(refused.reason, CallFailure::Refused(_)), "{refused:?}");
        }
        Ok(())
    });
    ended.await.unwrap();
}

#[tokio::test]
async fn longest_first_piece_fits_a_small_frame() {
    let limits = "[limits]\nmax_frame_len = '1 KiB'";
    let server = in_front_of(&format!("['tcp', 'connect', '127.0.0.1:{}']\n{limits}", echo()));
    let connect = connect(server.url("s")).password(Password::new(PASSWORD).unwrap()).args(&"streams");
    let chan = connect.open::<(), StreamsMessage>().await.unwrap();
    let opened = enter(async |mut me: Process<PiecesMessage>| {
        me.trap_exit(true);
        let client = me.address().grant(Rights { link: true, ..Rights::default() });
        let first = Bytes::from(vec![7; Relay::max_first_len(&chan.remote())]);
        let _far = chan.remote().open(first.clone(), client).await?;
        let mut back = Vec::new();
        while back.len() < first.len() {
            let Event::Message(PiecesMessage::Piece { bytes }) = me.recv().await else { panic!("no piece") };
            back.extend_from_slice(&bytes);
        }
        assert_eq!(back, first);
        Ok(first.len())
    });
    let len = opened.await.unwrap();
    assert!(len > 800, "{len}");
}

/// A target that reads nothing keeps nobody who has left.
#[tokio::test(flavor = "multi_thread")]
async fn first_piece_for_a_full_target_ends_with_its_client() {
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = in_front_of(&format!("['unix', 'connect', '{}']", path.display()));
    let connect = connect(server.url("s")).password(Password::new(PASSWORD).unwrap()).args(&"streams");
    let chan = connect.open::<(), StreamsMessage>().await.unwrap();
    let opened = enter(async |me: Process<PiecesMessage>| {
        me.trap_exit(true);
        let client = me.address().grant(Rights { link: true, ..Rights::default() });
        let far = chan.remote().open(Bytes::from(vec![7; MAX_PIECE_LEN]), client).await?;
        let target = listener.accept().unwrap();
        // Until the system keeps no more for the target.
        let piece = Bytes::from(vec![7; MAX_PIECE_LEN]);
        while far.within(Duration::from_secs(1)).piece(piece.clone()).await.is_ok() {}
        Ok(target)
    });
    let _target = opened.await.unwrap();
    assert_eq!(server.event("stream_ended")["reason"], "failed: target: timed out");
}

/// A client without the library's `forward` decides itself what it hands to the server.
#[tokio::test]
async fn stream_whose_client_cannot_be_linked_ends() {
    let server = in_front_of_port(echo());
    let connect = connect(server.url("s")).password(Password::new(PASSWORD).unwrap()).args(&"streams");
    let chan = connect.open::<(), StreamsMessage>().await.unwrap();
    let ended = enter(async |me: Process<PiecesMessage>| {
        let far = chan.remote().open(Bytes::from_static(b"hello"), me.address()).await?;
        Ok(far.pid().ended().await)
    });
    assert!(matches!(ended.await, Ok(ExitReason::NoProc)), "the stream goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_client_process_ends_its_stream() {
    let server = in_front_of_port(echo());
    let connect = connect(server.url("s")).password(Password::new(PASSWORD).unwrap()).args(&"streams");
    let chan = connect.open::<(), StreamsMessage>().await.unwrap();
    let far = enter(async |mut me: Process<PiecesMessage>| {
        me.trap_exit(true);
        let client = me.address().grant(Rights { link: true, ..Rights::default() });
        let far = chan.remote().open(Bytes::from_static(b"hello"), client).await?;
        let Event::Message(PiecesMessage::Piece { bytes }) = me.recv().await else { panic!("no piece") };
        assert_eq!(bytes, "hello");
        Ok(far)
    });
    // The end of the process was its last word: it sent no EOF.
    far.await.unwrap();
    assert_eq!(server.event("stream_ended")["reason"], "failed: the client ended before its EOF");
}

#[test]
fn refused_target_is_reason_of_one_stream() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = in_front_of_port(unused);
    let (forward, port): (Running, String) = forward_by(&server, server.url("s"), &[]);
    for _ in 0..2 {
        assert_eq!(local(&port).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let wanted = "the service ended: failed: target: connection refused";
    forward
        .err
        .wait_for("two failures", |lines| lines.iter().filter(|line| line.contains(wanted)).count() == 2);
    assert_sessions(&server, 1);
    assert_eq!(run(&mut server.client("ping", "s")).0, Some(0));
}
