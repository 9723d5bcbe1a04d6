//! What processes await: a look at each, and its end.

use lib_chan::{ExitReason, session::Unsendable};

use crate::log::{At, CastEnd, Proc, Token, What, token};

use super::{Kind, Op, World};

impl World {
    pub(super) fn op(&mut self, proc: Proc, at: At, kind: Kind) -> u32 {
        let op = self.ops.len() as u32;
        self.ops.push(Op { proc, at, kind, place: 0, over: false });
        self.process(proc).ops.push(op);
        op
    }

    pub(crate) fn wake(&mut self, op: u32) {
        let Op { proc, kind, over, .. } = self.ops[op as usize];
        if over {
            return;
        }
        if let Kind::Call { token, .. } = kind {
            self.note(What::CallWoken { token });
        }
        let process = self.process(proc);
        if !process.woken.contains(&op) {
            process.woken.push(op);
        }
    }

    /// Looks at something awaited: whether it is over.
    pub(super) fn poll_op(&mut self, op: u32) -> bool {
        let Op { proc, at, kind, over, .. } = self.ops[op as usize];
        if over {
            return true;
        }
        let over = match kind {
            Kind::Cast { ticket, token } => {
                let polled = self.session(at, |session, _| session.poll_cast(ticket, |_| op)).flatten();
                polled.is_some_and(|result| {
                    let end = match result {
                        Ok(()) => CastEnd::Sent,
                        Err(Unsendable::Ended(reason)) => CastEnd::Ended(reason),
                        Err(_) => CastEnd::Refused,
                    };
                    self.note(What::CastEnd { token, end });
                    true
                })
            }
            Kind::Call { call, token: asked } => {
                let polled = self.session(at, |session, _| session.poll_call(call, |_| op)).flatten();
                polled.is_some_and(|outcome| {
                    let outcome = outcome.map(|payload| token(&payload));
                    self.note(What::CallEnd { token: asked, outcome });
                    true
                })
            }
            Kind::Flush(flush) => {
                let polled = self.session(at, |session, _| session.poll_flushed(flush, || op)).flatten();
                polled.is_some_and(|result| {
                    self.note(What::FlushEnd { op, result });
                    true
                })
            }
            Kind::Open => {
                if self.end(at).endpoint.is_none() {
                    self.end(at).gone
                } else {
                    let polled = self.session(at, |session, _| session.poll_open()).flatten();
                    if polled.is_none() {
                        self.watch_end(at, op);
                    }
                    polled.is_some_and(|result| {
                        self.opened(proc, at, &result);
                        true
                    })
                }
            }
            Kind::Close => {
                let reason = self.session(at, |session, _| session.over().cloned()).flatten();
                if reason.is_none() {
                    self.watch_end(at, op);
                }
                reason.is_some_and(|reason| {
                    self.note(What::CloseEnd { at, reason });
                    true
                })
            }
            Kind::Cancelled { call, token } => {
                let cancelled = self.session(at, |session, _| session.poll_cancelled(call, |_| op));
                cancelled == Some(true) && {
                    self.note(What::Cancelled { at, token });
                    true
                }
            }
        };
        if over {
            self.ops[op as usize].over = true;
            self.process(proc).ops.retain(|other| *other != op);
        }
        over
    }

    /// Wakes this when the session has opened or ended.
    fn watch_end(&mut self, at: At, op: u32) {
        let mut place = self.ops[op as usize].place;
        if let Some(endpoint) = &mut self.end(at).endpoint {
            endpoint.watch(&mut place, |_| op);
        }
        self.ops[op as usize].place = place;
    }

    pub(crate) fn drop_cancelled(&mut self, asked: Token) {
        let waits = |op: &Op| !op.over && matches!(op.kind, Kind::Cancelled { token, .. } if token == asked);
        while let Some(op) = self.ops.iter().position(waits) {
            self.drop_op(op as u32, &ExitReason::Normal);
        }
    }

    /// A future is dropped.
    pub(crate) fn drop_op(&mut self, op: u32, reason: &ExitReason) {
        let Op { proc, at, kind, over, .. } = self.ops[op as usize];
        if over {
            return;
        }
        self.ops[op as usize].over = true;
        self.process(proc).ops.retain(|other| *other != op);
        self.process(proc).woken.retain(|other| *other != op);
        match kind {
            Kind::Cast { ticket, token } => {
                self.note(What::CastEnd { token, end: CastEnd::Withdrawn });
                self.session(at, |session, now| session.withdraw_cast(now, ticket));
            }
            Kind::Call { call, token } => {
                self.note(What::CallGivenUp { token });
                self.session(at, |session, now| session.cancel_call(now, call));
            }
            Kind::Flush(flush) => {
                self.note(What::FlushGivenUp { op });
                self.session(at, |session, _| session.forget_flush(flush));
            }
            Kind::Open => {
                let place = self.ops[op as usize].place;
                self.end(at).endpoint.as_mut().and_then(|endpoint| endpoint.unwatch(place));
                self.abandon_login(at);
                self.let_go(at, reason.clone());
            }
            Kind::Cancelled { token, .. } => self.note(What::AwaitsNoCancel { token }),
            Kind::Close => {
                let place = self.ops[op as usize].place;
                self.end(at).endpoint.as_mut().and_then(|endpoint| endpoint.unwatch(place));
            }
        }
    }
}
