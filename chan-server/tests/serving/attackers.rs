//! Clients that ask for a session that is not theirs. All of them have logged in; none of them gets anything.

use lib_chan::auth::{Exporter, ResumeClaim, ResumeKey, SessionId};
use lib_chan::wire::{Frame, Granted, Terms};

use super::*;

/// The answer to every attempt: a `Lost` that knows nothing, and the end of the stream.
const NOTHING: [u8; 6] = [0, 0, 0, 2, 0x46, 0];
const WINDOW_MS: u64 = 60_000;

type Stream = TlsStream<TcpStream>;

fn exporter_of(stream: &Stream) -> Exporter {
    exporter(stream.get_ref().1).unwrap()
}

async fn send(stream: &mut Stream, frame: &Frame<'_>) {
    let mut bytes = Vec::new();
    frame.put(&mut bytes);
    stream.write_all(&bytes).await.unwrap();
}

/// Reads one frame, without its length.
async fn hear(stream: &mut Stream) -> Vec<u8> {
    let len = tokio::time::timeout(PATIENCE, stream.read_u32()).await.unwrap().unwrap();
    let mut body = vec![0; len as usize];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// Starts the service, and asks for resume within so many milliseconds. Returns what the server grants.
async fn start(stream: &mut Stream, resume: u64) -> Option<Granted> {
    let terms = Terms { max_calls: 0, max_links: 0, max_handles: 0 };
    let frame = Frame::Start {
        codec: 3,
        terms,
        max_frame_len: 65_536,
        window_len: 65_536,
        resume,
        interface: None,
        args: b"",
    };
    send(stream, &frame).await;
    let body = hear(stream).await;
    let Ok(Frame::Started { resume, .. }) = Frame::parse(&body) else { panic!("{body:x?}") };
    resume.map(|granted| *granted)
}

/// A session whose client is the test itself, so that the test knows its secret.
struct Victim {
    stream: Stream,
    granted: Granted,
}

impl Victim {
    /// Makes a session that can be resumed from now on.
    async fn open(running: &Running, service: &str, client: &str, credential: Credential<'_>) -> Self {
        let (mut stream, _) = running.login(service, client, credential).await.unwrap();
        let granted = start(&mut stream, WINDOW_MS).await.unwrap();
        send(&mut stream, &Frame::Ack { number: 1 }).await;
        let mut victim = Self { stream, granted };
        victim.echoes().await;
        victim
    }

    /// Says something on the connection that it has, and hears it again.
    async fn echoes(&mut self) {
        send(&mut self.stream, &Frame::Cast { to: 0, payload: b"mine" }).await;
        loop {
            let body = hear(&mut self.stream).await;
            if let Frame::Cast { payload, .. } = Frame::parse(&body).unwrap() {
                return assert_eq!(payload, b"mine");
            }
        }
    }

    fn claim(&self) -> ResumeClaim {
        claim(self.granted.id)
    }
}

fn claim(id: SessionId) -> ResumeClaim {
    ResumeClaim { id, epoch: 2, received: 1, sent: 2 }
}

/// Sends a `Resume` and returns all that comes until the server closes.
async fn answer(stream: &mut Stream, claim: ResumeClaim, proof: &[u8; 32]) -> Vec<u8> {
    send(stream, &Frame::Resume { claim, proof }).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

/// Claims a session with this secret, on a connection that is logged in.
async fn tries(mut stream: Stream, id: SessionId, secret: &Secret<32>) -> Vec<u8> {
    let claim = claim(id);
    let proof = ResumeKey::new(secret).prove(&exporter_of(&stream), &claim);
    answer(&mut stream, claim, &proof).await
}

/// Two clients with keys at `echo`, and a shared password at `echo` and at `shared`.
fn services() -> String {
    let mike = key(2).public_key();
    let shared = "password = 'correct horse battery'\nmfa = ['echo', 'start']\n";
    format!(
        "{}[[service.client]]\nname = 'mike'\nkey = '{mike}'\n\
         [[service]]\nname = 'shared'\n{shared}\
         [[service]]\nname = 'other'\n{shared}",
        echo()
    )
}

async fn shared(running: &Running, service: &str) -> Stream {
    let password = Password::new("correct horse battery").unwrap();
    running.login(service, "", Credential::Password(&password)).await.unwrap().0
}

#[tokio::test]
async fn session_of_another_is_never_resumed() {
    let running = serve(&services(), "").await;
    let mut victim = Victim::open(&running, "echo", "joe", Credential::Key(&key(1))).await;
    let password = Password::new("correct horse battery").unwrap();
    let mut group = Victim::open(&running, "shared", "", Credential::Password(&password)).await;
    let (wrong, unknown) = (Secret::new([7; 32]), SessionId::new([7; 16]));
    let as_joe = async || running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap().0;
    let as_mike = async || running.login("echo", "mike", Credential::Key(&key(2))).await.unwrap().0;
    let (own, groups) = (&victim.granted, &group.granted);
    // An answer that differs in one byte would tell which ids there are.
    for (answer, attack) in [
        (tries(as_joe().await, own.id, &wrong).await, "the right client without the secret"),
        (tries(as_mike().await, own.id, &own.secret).await, "another client with the secret"),
        (tries(shared(&running, "other").await, own.id, &own.secret).await, "another service"),
        (tries(shared(&running, "shared").await, groups.id, &wrong).await, "the same shared password"),
        (tries(shared(&running, "other").await, groups.id, &groups.secret).await, "another password"),
        (tries(as_joe().await, unknown, &own.secret).await, "an id that there is not"),
        (tries(shared(&running, "shared").await, unknown, &wrong).await, "an id, with a password"),
    ] {
        assert_eq!(answer, NOTHING, "{attack}");
    }
    // Neither session has noticed anything.
    victim.echoes().await;
    group.echoes().await;
    assert!(running.log.find("session_detached").is_none());
    // The owner itself comes in, and the connection before is over.
    let mut stream = as_joe().await;
    let claim = ResumeClaim { received: 3, sent: 3, ..victim.claim() };
    let proof = ResumeKey::new(&victim.granted.secret).prove(&exporter_of(&stream), &claim);
    send(&mut stream, &Frame::Resume { claim, proof: &proof }).await;
    let body = hear(&mut stream).await;
    assert!(matches!(Frame::parse(&body), Ok(Frame::Resumed { .. })), "{body:x?}");
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, victim.stream.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn proof_is_worthless_on_another_connection() {
    let running = serve(&services(), "").await;
    let mut victim = Victim::open(&running, "echo", "joe", Credential::Key(&key(1))).await;
    let login = async || running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap().0;
    let (overheard, mut stream) = (login().await, login().await);
    let proof = ResumeKey::new(&victim.granted.secret).prove(&exporter_of(&overheard), &victim.claim());
    assert_eq!(answer(&mut stream, victim.claim(), &proof).await, NOTHING);
    victim.echoes().await;
}

#[tokio::test]
async fn changed_claim_is_refused() {
    let running = serve(&services(), "").await;
    let mut victim = Victim::open(&running, "echo", "joe", Credential::Key(&key(1))).await;
    let claim = victim.claim();
    for changed in [
        ResumeClaim { epoch: 3, ..claim },
        ResumeClaim { received: 0, ..claim },
        ResumeClaim { sent: 9, ..claim },
    ] {
        let mut stream = running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap().0;
        let proof = ResumeKey::new(&victim.granted.secret).prove(&exporter_of(&stream), &claim);
        assert_eq!(answer(&mut stream, changed, &proof).await, NOTHING, "{changed:?}");
    }
    victim.echoes().await;
}

#[tokio::test]
async fn each_claim_needs_a_login_of_its_own() {
    let running = serve(&services(), "").await;
    let mut stream = running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap().0;
    let claim = claim(SessionId::new([7; 16]));
    let (mut bytes, claims) = (Vec::new(), 100);
    for _ in 0..claims {
        Frame::Resume { claim, proof: &[0; 32] }.put(&mut bytes);
    }
    stream.write_all(&bytes).await.unwrap();
    let mut answers = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answers)).await.unwrap();
    assert_eq!(answers, NOTHING, "one answer for all of them");
}

#[tokio::test]
async fn claims_hold_places_of_logins_that_start_nothing() {
    let running = serve(&echo(), "max_logins = 8\nmax_logins_before_drop = 8").await;
    let claim = claim(SessionId::new([7; 16]));
    // They read no answer and do not close.
    let mut waiting = Vec::new();
    while running.log.find("session_refused").is_none_or(|line| line["why"] != CROWDED) {
        let (mut stream, _) = running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap();
        let mut bytes = Vec::new();
        Frame::Resume { claim, proof: &[0; 32] }.put(&mut bytes);
        stream.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        waiting.push(stream);
        assert!(waiting.len() < 100, "never refused");
    }
}

const CROWDED: &str = "this client has logged in too often and started nothing (a quarter of max_logins)";

#[tokio::test]
async fn claims_of_forgotten_sessions_bring_no_penalty() {
    // Under load from the first login on, and a source that failed twice is turned away.
    let running = serve(&echo(), "max_logins_before_drop = 1\nlogin_drop_percent = 0").await;
    for _ in 0..100 {
        let stream = running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap().0;
        assert_eq!(tries(stream, SessionId::new([7; 16]), &Secret::new([7; 32])).await, NOTHING);
    }
    let why = "no session of this client has this name and proof";
    assert_eq!(running.log.first("session_refused").await["why"], why);
    assert!(running.log.find("turned").is_none());
    assert_eq!(running.server.as_ref().unwrap().sessions(), 0);
}

#[tokio::test]
async fn resume_is_granted_only_as_asked_for() {
    let running = serve(&echo(), "").await;
    for (asked, granted) in [(0, None), (5_000, Some(5_000)), (u64::MAX, Some(WINDOW_MS))] {
        let mut stream = running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap().0;
        assert_eq!(start(&mut stream, asked).await.map(|granted| granted.window), granted, "{asked}");
    }
    // Without resume, a lost connection is the end, and the session leaves nothing to ask for.
    let mut stream = running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap().0;
    assert_eq!(start(&mut stream, 0).await, None);
    drop(stream);
    running.log.first("session_ended").await;
}
