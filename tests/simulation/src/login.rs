//! The login, by the real machines over the simulated network; or one made before, where a schedule is about what
//! comes after it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::OnceLock,
    time::{Duration, Instant},
};

use lib_chan::{
    Limits,
    auth::{Account, AccountVerifier, ClientId, Directory, Exporter, NameKey, ServiceName},
    handshake::{
        Authenticated, SessionParameters, Step, checked_len,
        client::{ExpectAccept, start_with_key},
        pair_in_memory,
        server::{ExpectHello, ExpectProof, Verdict},
    },
    payload::Codec,
    secret::{PrivateKey, Secret},
    session::{Endpoint, OpenRequest},
};

use crate::{
    end::{End, Simulated},
    log::{At, Side, What},
    net::{Pipe, Wrote},
    seeded::Seeded,
    world::World,
};

/// One end's login.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) deadline: Instant,
    state: State,
    /// What has come of the message that is due.
    came: Vec<u8>,
    /// What is to be written.
    send: Vec<u8>,
    /// A bit of the accept is turned over on the way.
    tamper: bool,
    /// It must not succeed at this end.
    pub(crate) wrong: bool,
}

#[derive(Debug)]
enum State {
    ExpectAccept(Box<ExpectAccept>),
    ExpectHello(Box<ExpectHello<'static>>),
    ExpectProof(Box<ExpectProof<'static>>),
    /// Once all is written.
    Done(Option<Box<Authenticated>>),
}

impl State {
    const fn max_len(&self) -> Option<usize> {
        Some(match self {
            Self::ExpectAccept(_) => ExpectAccept::MAX_LEN,
            Self::ExpectHello(_) => ExpectHello::MAX_LEN,
            Self::ExpectProof(_) => ExpectProof::MAX_LEN,
            Self::Done(_) => return None,
        })
    }
}

/// The one account of the simulated server, and a key that it does not know.
#[derive(Debug)]
struct Credentials {
    key: PrivateKey,
    stranger: PrivateKey,
    directory: Directory,
}

fn credentials() -> &'static Credentials {
    static CREDENTIALS: OnceLock<Credentials> = OnceLock::new();
    CREDENTIALS.get_or_init(|| {
        let key = |byte| PrivateKey::from_seed(Secret::new([byte; 32])).expect("a seed makes a key");
        let key_of_account = key(1);
        let account = Account {
            service: ServiceName::new("simulated").expect("a name"),
            client: ClientId::new("client").expect("a name"),
            verifier: AccountVerifier::Key(key_of_account.public_key()),
            enabled: true,
            index: 0,
        };
        let (directory, _) =
            Directory::new(NameKey::new(Secret::new([2; 32])), Secret::new([3; 32]), [account])
                .expect("a directory of one");
        Credentials { key: key_of_account, stranger: key(4), directory }
    })
}

fn bytes(seeded: &mut Seeded) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.fill_with(|| seeded.next() as u8);
    bytes
}

/// Both ends of a login.
type Pair = Rc<(Authenticated, Authenticated)>;

/// Both ends of a login that has been done.
pub(crate) fn done(limits: &Limits) -> Pair {
    thread_local! {
        static DONE: RefCell<BTreeMap<(usize, usize, Duration), Pair>> =
            const { RefCell::new(BTreeMap::new()) };
    }
    let key = (limits.max_frame_len, limits.window_len, limits.heartbeat_interval);
    DONE.with_borrow_mut(|done| {
        Rc::clone(done.entry(key).or_insert_with(|| {
            let parameters = SessionParameters::from_limits(limits).expect("limits within their bounds");
            Rc::new(pair_in_memory(parameters, [7; 32]).expect("a login without a fault"))
        }))
    })
}

/// The beginning of a login at both ends; sometimes one that must fail.
pub(crate) fn begin(seeded: &mut Seeded, limits: &Limits, now: Instant) -> [Login; 2] {
    let credentials = credentials();
    let exporter = bytes(seeded);
    let (mut key, mut exporters, mut tamper) = (&credentials.key, [exporter; 2], false);
    let mut wrong = [false; 2];
    match seeded.below(8) {
        0 => (key, wrong) = (&credentials.stranger, [true; 2]),
        // Somebody in the middle passes the messages on: two connections, each with its own exporter.
        1 => (exporters[1], wrong) = (bytes(seeded), [true; 2]),
        2 => (tamper, wrong) = (true, [true, false]),
        _ => {}
    }
    let [client, server] = exporters.map(|exporter| Exporter::new(Secret::new(exporter)));
    let name = ServiceName::new("simulated").expect("a name");
    let id = ClientId::new("client").expect("a name");
    let Step { next, send } =
        start_with_key(&client, name, id, key, bytes(seeded)).expect("a key that signs");
    let parameters = SessionParameters::from_limits(limits).expect("limits within their bounds");
    let hello = ExpectHello::new(&credentials.directory, server, parameters, bytes(seeded));
    let deadline = now + limits.login_timeout;
    let login = |state, send, tamper, wrong| Login { deadline, state, came: Vec::new(), send, tamper, wrong };
    [
        login(State::ExpectAccept(Box::new(next)), send, false, wrong[0]),
        login(State::ExpectHello(Box::new(hello)), Vec::new(), tamper, wrong[1]),
    ]
}

impl World {
    pub(crate) fn could_login(&self, end: &End, out: &Pipe, inn: &Pipe) -> bool {
        let Some(login) = &end.login else { return false };
        login.deadline <= self.now
            || (!login.send.is_empty() && out.is_writable())
            || inn.arrived(self.now) > 0 && login.state.max_len().is_some()
            || inn.is_at_end(self.now)
            || login.send.is_empty() && login.state.max_len().is_none()
    }

    pub(crate) fn drive_login(&mut self, at: At) {
        let now = self.now;
        let conn = &mut self.conns[usize::from(at.conn)];
        let Some(mut login) = conn.ends[at.side as usize].login.take() else { return };
        if login.deadline <= now {
            return self.fail_login(at, &login);
        }
        if !login.send.is_empty() {
            let len = self.rng.piece(login.send.len());
            let latency = Duration::from_micros(self.rng.below(self.plan.latency + 1) as u64);
            match conn.pipes[at.side as usize].write(&login.send[..len], now + latency) {
                Wrote::Broken => return self.fail_login(at, &login),
                Wrote::Bytes(len) => drop(login.send.drain(..len)),
                Wrote::LastBytes(len) => {
                    login.send.drain(..len);
                    self.end(at).login = Some(login);
                    return self.cut(at.conn);
                }
            }
            self.end(at).login = Some(login);
            return;
        }
        let Some(max) = login.state.max_len() else {
            let State::Done(Some(authenticated)) = login.state else { return self.fail_login(at, &login) };
            return self.log_in(at, &authenticated);
        };
        let inn = &mut conn.pipes[at.side.other() as usize];
        let arrived = inn.arrived(now);
        if arrived == 0 {
            return self.fail_login(at, &login);
        }
        let wanted = match login.came.first_chunk::<2>() {
            None => 2,
            Some(prefix) => match checked_len(*prefix, max) {
                Ok(len) => 2 + len,
                Err(_) => return self.fail_login(at, &login),
            },
        };
        let len = self.rng.piece(arrived.min(wanted - login.came.len()));
        inn.read(len, &mut self.scratch);
        login.came.extend_from_slice(&self.scratch);
        if wanted == 2 || login.came.len() < wanted {
            self.end(at).login = Some(login);
            return;
        }
        self.step_login(at, login);
    }

    /// A whole message has come.
    fn step_login(&mut self, at: At, mut login: Login) {
        let came = std::mem::take(&mut login.came);
        let body = &came[2..];
        let stepped = match login.state {
            State::ExpectHello(state) => {
                state.handle(body).ok().map(|Step { next, send }| (State::ExpectProof(Box::new(next)), send))
            }
            State::ExpectProof(state) => state.handle(body, |_| true).ok().map(|Step { next, send }| {
                let authenticated = match next {
                    Verdict::Accepted(authenticated) => Some(Box::new(authenticated)),
                    Verdict::Refused(_) => None,
                };
                (State::Done(authenticated), send)
            }),
            State::ExpectAccept(state) => match state.handle(body) {
                Ok(authenticated) => Some((State::Done(Some(Box::new(authenticated))), Vec::new())),
                Err(_) => None,
            },
            State::Done(_) => None,
        };
        let Some((state, mut send)) = stepped else {
            login.state = State::Done(None);
            return self.fail_login(at, &login);
        };
        if login.tamper && matches!(state, State::Done(_)) {
            let place = self.rng.below(send.len() - 2);
            send[2 + place] ^= 1;
        }
        login.state = state;
        login.send = send;
        self.end(at).login = Some(login);
    }

    fn log_in(&mut self, at: At, authenticated: &Authenticated) {
        let endpoint = self.new_endpoint(at, authenticated);
        self.begin(at, endpoint);
    }

    /// The session of an end that has logged in.
    pub(crate) fn new_endpoint(&mut self, at: At, authenticated: &Authenticated) -> Endpoint<Simulated> {
        let now = self.now;
        let mut endpoint = Endpoint::new(authenticated, &self.end(at).limits, now);
        if at.side == Side::Client {
            endpoint
                .session_mut()
                .start(&OpenRequest::new(Codec::Raw, b"arguments"))
                .expect("short arguments");
        }
        endpoint
    }

    /// Whoever waited for the login is gone, and the connection with it.
    pub(crate) fn abandon_login(&mut self, at: At) {
        if let Some(login) = self.end(at).login.take() {
            self.note(What::LoginGivenUp { at });
            self.fail_login(at, &login);
        }
    }

    fn fail_login(&mut self, at: At, login: &Login) {
        self.note(What::LoginFailed { at, wrong: login.wrong });
        self.end(at).gone = true;
        self.wake_opener(at);
        self.close_socket(at);
    }
}
