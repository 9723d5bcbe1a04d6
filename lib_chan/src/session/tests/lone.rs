//! One end alone: the test is the other, and need not be an honest one.

use std::time::{Duration, Instant};

use super::pair::{Numbers, beginning};
use crate::{
    ExitReason, Limits,
    handshake::{SessionParameters, Side, pair_in_memory},
    payload::Codec,
    session::{Batch, OpenRequest, Session},
    wire::{self, Frame, Terms},
};

/// What the far end says it allows.
pub(super) const TERMS: Terms = Terms { max_calls: 4, max_links: 4, max_handles: 4 };

pub(super) struct Lone {
    pub(super) session: Session<Numbers>,
    pub(super) now: Instant,
    batch: Batch,
}

impl Lone {
    pub(super) fn new(side: Side, limits: &Limits) -> Self {
        let (client, server) =
            pair_in_memory(SessionParameters::from_limits(limits).unwrap(), [9; 32]).unwrap();
        let now = beginning();
        let own = if side == Side::Client { client } else { server };
        Self { session: Session::new(&own, limits, now), now, batch: Batch::default() }
    }

    /// An open session whose owner is process 1, not linked.
    pub(super) fn open(side: Side) -> Self {
        Self::open_with(side, &Limits::default())
    }

    pub(super) fn open_with(side: Side, limits: &Limits) -> Self {
        let mut lone = Self::new(side, limits);
        match side {
            Side::Client => {
                lone.session.start(&OpenRequest::new(Codec::Raw, b"")).unwrap();
                lone.feed(&Frame::Started { terms: TERMS, resume: None });
                lone.session.set_owner(Some(1), false);
            }
            Side::Server => {
                lone.feed(&start());
                lone.session.take_request().unwrap();
                lone.session.accept(Some(1), false);
            }
        }
        lone.frames();
        lone
    }

    /// A frame comes.
    pub(super) fn feed(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.put(&mut bytes);
        self.session.handle_bytes(self.now, &bytes);
    }

    /// Time passes, whatever is due in it.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now);
    }

    /// What was appended and not written.
    pub(super) fn fetch(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.session.transmit(self.now, &mut self.batch);
        while !self.batch.chunk().is_empty() {
            bytes.extend_from_slice(self.batch.chunk());
            self.batch.advance(self.batch.chunk().len());
        }
        bytes
    }

    /// The frames that went out, all of them written.
    pub(super) fn frames(&mut self) -> Vec<Frame<'static>> {
        let bytes = self.fetch();
        self.session.handle_accepted(self.now, bytes.len());
        frames(bytes)
    }

    pub(super) fn ended(&self) -> Option<&ExitReason> {
        self.session.over()
    }
}

/// The frames that these bytes are.
pub(super) fn frames(bytes: Vec<u8>) -> Vec<Frame<'static>> {
    let mut rest: &'static [u8] = bytes.leak();
    let mut frames = Vec::new();
    while let Some(len) = wire::frame_len(rest, usize::MAX).unwrap() {
        let (frame, after) = rest.split_at(wire::LEN_LEN + len);
        frames.push(Frame::parse(&frame[wire::LEN_LEN..]).unwrap());
        rest = after;
    }
    assert!(rest.is_empty(), "whole frames");
    frames
}

/// A first frame that is well.
pub(super) fn start() -> Frame<'static> {
    Frame::Start {
        codec: Codec::Raw as u8,
        terms: TERMS,
        max_frame_len: 1 << 20,
        window_len: 1 << 18,
        resume: 0,
        interface: None,
        args: b"",
    }
}
