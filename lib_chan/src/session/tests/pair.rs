//! Both ends of a session in one place: two byte pipes that split and join anywhere, and time that stands still until it
//! is moved. Only what is public of a session is used.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    Limits,
    auth::{Exporter, SessionId},
    handshake::{Authenticated, SessionParameters, pair_in_memory},
    payload::Codec,
    secret::Secret,
    session::{Attach, Batch, Delivery, Host, Inbound, OpenRequest, Outcome, Request, Session},
    wire::{self, Frame, Granted},
};

/// Waiters and processes are numbers.
#[derive(Debug)]
pub(crate) struct Numbers;

impl Host for Numbers {
    type Waiter = u32;
    type Process = u32;
}

/// A sequence that looks random, and is the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`.
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// How many of `len` bytes go at once: often one, often few, sometimes all.
    pub(crate) const fn piece(&mut self, len: usize) -> usize {
        let most = match self.below(4) {
            0 => 1,
            1 => 20,
            2 => 5000,
            _ => len,
        };
        1 + self.below(if most < len { most } else { len })
    }
}

/// When the time of a test begins. No test asks again.
#[expect(clippy::disallowed_methods, reason = "the only way to have an instant at all")]
pub(crate) fn beginning() -> Instant {
    Instant::now()
}

/// One end, and what a driver has with it.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) session: Session<Numbers>,
    batch: Batch,
    /// Written by this end, and not read by the other.
    pub(crate) sent: VecDeque<u8>,
    /// How many more bytes the pipe takes.
    pub(crate) room: usize,
    /// What was delivered and not looked at, in order.
    pub(crate) deliveries: Vec<Delivery<u32>>,
    /// Who was woken and not looked at.
    pub(crate) woken: Vec<u32>,
    /// The number of the last message taken.
    pub(crate) taken: u64,
}

impl End {
    fn new(authenticated: &Authenticated, limits: &Limits, now: Instant) -> Self {
        Self {
            session: Session::new(authenticated, limits, now),
            batch: Batch::default(),
            sent: VecDeque::new(),
            room: usize::MAX,
            deliveries: Vec::new(),
            woken: Vec::new(),
            taken: 0,
        }
    }

    /// What a driver does after any input: whether bytes went out.
    fn drive(&mut self, now: Instant, seeded: &mut Seeded) -> bool {
        let mut progress = false;
        loop {
            self.deliveries.extend(self.session.take_deliveries());
            self.woken.extend(self.session.take_woken());
            if self.session.is_lost() {
                self.batch = Batch::default();
                return progress;
            }
            if self.batch.chunk().is_empty() {
                self.session.transmit(now, &mut self.batch);
            }
            let len = self.batch.chunk().len().min(self.room);
            if len == 0 {
                return progress;
            }
            let len = seeded.piece(len);
            self.sent.extend(&self.batch.chunk()[..len]);
            self.room -= len;
            self.batch.advance(len);
            self.session.handle_accepted(now, len);
            progress = true;
        }
    }

    /// The owner takes all that has come.
    pub(crate) fn take(&mut self) -> Vec<Inbound> {
        let mut inbox = VecDeque::new();
        self.session.take_inbox(&mut inbox);
        for message in &inbox {
            self.taken = message.number;
            self.session.give_back(message.cost());
        }
        inbox.into()
    }

    pub(crate) fn outcome(&mut self, call: u64) -> Option<Outcome> {
        self.session.poll_call(call, |_| call as u32)
    }

    pub(crate) fn deliveries(&mut self) -> Vec<Delivery<u32>> {
        std::mem::take(&mut self.deliveries)
    }

    pub(crate) fn woken(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.woken)
    }
}

/// Two ends, the pipes between them, and the time.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) now: Instant,
    pub(crate) seeded: Seeded,
    /// Nothing that is sent arrives any more, and nobody is told.
    pub(crate) cut: bool,
}

impl Pair {
    /// After the login.
    pub(crate) fn new(seed: u64, client_limits: &Limits, server_limits: &Limits) -> Self {
        let parameters = SessionParameters::from_limits(server_limits).unwrap();
        let (client, server) = pair_in_memory(parameters, [seed as u8; 32]).unwrap();
        let now = beginning();
        Self {
            client: End::new(&client, client_limits, now),
            server: End::new(&server, server_limits, now),
            now,
            seeded: Seeded::new(seed),
            cut: false,
        }
    }

    /// Open, between tasks that are no processes.
    pub(crate) fn open(seed: u64) -> Self {
        Self::open_with(seed, &Limits::default(), &Limits::default())
    }

    pub(crate) fn open_with(seed: u64, client_limits: &Limits, server_limits: &Limits) -> Self {
        let mut pair = Self::new(seed, client_limits, server_limits);
        pair.start(b"args");
        pair.server.session.accept(None, false);
        pair.settle();
        assert_eq!(pair.client.session.poll_open(), Some(Ok(())));
        pair
    }

    /// Open, and resumable within a minute.
    pub(crate) fn resumable(seed: u64) -> Self {
        let mut pair = Self::new(seed, &Limits::default(), &Limits::default());
        let resume = Duration::from_secs(60);
        pair.start_with(&OpenRequest { resume, ..OpenRequest::new(Codec::Raw, b"args") });
        let (id, secret) = (SessionId::new([5; 16]), Secret::new([6; 32]));
        pair.server.session.grant(Granted { window: 60_000, id, secret });
        pair.server.session.accept(None, false);
        pair.settle();
        assert!(pair.client.session.is_resumable() && pair.server.session.is_resumable());
        pair
    }

    /// The connection is lost with all that is on its way, and the session goes on over another.
    pub(crate) fn reconnect(&mut self) {
        for end in [&mut self.client, &mut self.server] {
            end.session.handle_loss(self.now);
            (end.batch, end.sent, end.room) = (Batch::default(), VecDeque::new(), usize::MAX);
        }
        self.client.session.resume(self.now, &Exporter::new(Secret::new([7; 32]))).unwrap();
        let mut batch = Batch::default();
        self.client.session.transmit(self.now, &mut batch);
        let bytes = batch.chunk();
        let Ok(Frame::Resume { claim, .. }) = Frame::parse(&bytes[wire::LEN_LEN..]) else { panic!() };
        self.client.session.handle_accepted(self.now, bytes.len());
        assert_eq!(self.server.session.attach(self.now, &claim), Attach::Attached(claim.epoch));
        self.settle();
    }

    /// The client says what it wants, and the server hears it.
    pub(crate) fn start(&mut self, args: &[u8]) -> Request {
        self.start_with(&OpenRequest::new(Codec::Raw, args))
    }

    fn start_with(&mut self, request: &OpenRequest<'_>) -> Request {
        self.client.session.start(request).unwrap();
        self.settle();
        self.server.session.take_request().unwrap()
    }

    /// Moves bytes until none is left that can move. No time passes.
    pub(crate) fn settle(&mut self) {
        loop {
            let client = self.client.drive(self.now, &mut self.seeded);
            let server = self.server.drive(self.now, &mut self.seeded);
            let cut = self.cut;
            let to_server = carry(&mut self.client, &mut self.server, cut, self.now, &mut self.seeded);
            let to_client = carry(&mut self.server, &mut self.client, cut, self.now, &mut self.seeded);
            if !(client || server || to_server || to_client) {
                return;
            }
        }
    }

    /// Time passes, and what is due at each moment of it is done.
    pub(crate) fn advance(&mut self, by: Duration) {
        let target = self.now + by;
        loop {
            self.settle();
            let ends = [self.client.session.poll_timeout(), self.server.session.poll_timeout()];
            let Some(next) = ends.into_iter().flatten().min().filter(|next| *next <= target) else { break };
            // A time-out that is handled and still due would stop the time for ever.
            self.now = self.now.max(next);
            for end in [&mut self.client, &mut self.server] {
                if end.session.poll_timeout().is_some_and(|due| due <= self.now) {
                    end.session.handle_timeout(self.now);
                    assert!(end.session.poll_timeout().is_none_or(|due| due > self.now));
                }
            }
        }
        self.now = target;
    }

    /// The connection is lost, and both ends see it.
    pub(crate) fn lose(&mut self) {
        self.cut = true;
        self.settle();
        self.client.session.handle_loss(self.now);
        self.server.session.handle_loss(self.now);
        self.settle();
    }

    /// The server answers every call with its own payload.
    pub(crate) fn echo(&mut self) {
        for message in self.server.take() {
            if let crate::session::InboundKind::Call { call } = message.kind {
                self.server.session.reply(call, &mut message.payload.to_vec());
            }
        }
        self.settle();
    }
}

/// Bytes of one end come to the other, in pieces.
fn carry(from: &mut End, to: &mut End, cut: bool, now: Instant, seeded: &mut Seeded) -> bool {
    if from.sent.is_empty() {
        return false;
    }
    let len = seeded.piece(from.sent.len());
    let piece: Vec<u8> = from.sent.drain(..len).collect();
    if !cut {
        to.session.handle_bytes(now, &piece);
    }
    true
}
