//! The loop: bytes to the session, bytes from the session, one timer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    time::{Sleep, sleep_until},
};

use super::{
    connection::{Connection, Read},
    shared::Shared,
    wake::now,
};
use crate::{
    ExitReason,
    session::{Endpoint, FIRST_EPOCH, Request, Rest},
};

/// How often the driver goes round before it lets other tasks run.
const MAX_ROUNDS: usize = 32;

/// Drives one session over one stream until it is over and its last words are said.
///
/// It polls both directions and waits for neither inside the other: a peer that does not read is still read from.
pub(crate) struct Driver<S, F> {
    connection: Connection<S>,
    shared: Arc<Shared>,
    /// Starts the service, once the client has said what it wants.
    start: Option<F>,
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    /// It has let others go first since it last wrote.
    yielded: bool,
}

impl<S, F> Driver<S, F>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
    F: FnOnce(Arc<Shared>, Request) + Unpin,
{
    pub(crate) fn new(stream: S, shared: Arc<Shared>, start: Option<F>) -> Self {
        Self {
            connection: Connection::new(stream),
            shared,
            start,
            timer: Box::pin(sleep_until(tokio::time::Instant::now())),
            armed: None,
            yielded: false,
        }
    }

    /// Starts the service that the client asks for.
    fn start(&mut self) {
        if self.start.is_some()
            && let Some(request) = self.shared.take_request()
        {
            self.shared.agree(request.codec);
            if let Some(start) = self.start.take() {
                start(Arc::clone(&self.shared), request);
            }
        }
    }

    /// One round of everything: whether it is worth another.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let wrote = self.connection.poll_write(cx, &self.shared);
        let read = match self.connection.poll_read(cx, &self.shared) {
            Read::Nothing => false,
            Read::Some => {
                self.start();
                true
            }
            Read::End => {
                // Nothing more will come, and nothing more is worth sending.
                self.shared.drive(|endpoint| endpoint.handle_loss(FIRST_EPOCH, now()));
                self.connection.end();
                false
            }
        };
        if self.connection.is_over() {
            return Poll::Ready(false);
        }
        if wrote || read || self.poll_timer(cx) { Poll::Ready(true) } else { Poll::Pending }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        // What was appended since the writing stopped for want of it has woken nobody.
        let hungry = self.connection.is_hungry();
        let (waker, armed) = (cx.waker().clone(), self.armed);
        let Rest::Until(wanted) = self.shared.quietly(|endpoint| endpoint.sleep(waker, hungry, armed)) else {
            self.shared.drive(|_| ());
            return true;
        };
        if wanted.is_none() {
            self.connection.set_last_call(&self.shared);
        }
        // A timer that comes too early costs one look. To set it anew whenever something was heard would cost more.
        let wanted = [wanted, self.connection.last_call()].into_iter().flatten().min();
        if let Some(at) = wanted.filter(|&at| self.armed.is_none_or(|armed| at < armed)) {
            self.armed = Some(at);
            self.timer.as_mut().reset(at.into());
        }
        if self.armed.is_none() || self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.armed = None;
        self.handle_timeout();
        true
    }

    /// What the timer would do, for a driver that does not come to set it.
    fn look_at_the_clock(&mut self) {
        match self.shared.drive(|endpoint| endpoint.poll_timeout()) {
            Some(at) if at <= now() => self.handle_timeout(),
            Some(_) => {}
            None => self.connection.set_last_call(&self.shared),
        }
    }

    fn handle_timeout(&mut self) {
        self.connection.shrink();
        if self.shared.drive(|endpoint| endpoint.handle_timeout(now())) {
            self.connection.stop_writing(&self.shared);
        }
    }
}

impl<S, F> Future for Driver<S, F>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
    F: FnOnce(Arc<Shared>, Request) + Unpin,
{
    type Output = ExitReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ExitReason> {
        // One turn for the others: what they are about to append goes out in the same write.
        if self.shared.quietly(Endpoint::rise) && !std::mem::replace(&mut self.yielded, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.yielded = false;
        for _ in 0..MAX_ROUNDS {
            let again = ready!(self.poll_round(cx));
            if !again {
                self.shared.drive(|endpoint| endpoint.handle_loss(FIRST_EPOCH, now()));
                return Poll::Ready(self.shared.with(|endpoint| endpoint.cause()));
            }
        }
        // Nothing is put off because there is always something to read.
        self.look_at_the_clock();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S, F> Drop for Driver<S, F> {
    /// However the driver ends, the session has its end, and all that is due is delivered.
    fn drop(&mut self) {
        self.shared.leave();
    }
}
