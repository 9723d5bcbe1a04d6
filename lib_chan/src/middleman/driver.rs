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
    source::{NextStream, Source},
    wake::now,
};
use crate::{
    ExitReason,
    session::{Attach, Endpoint, FIRST_EPOCH, Request, Rest},
};

/// How often the driver goes round before it lets other tasks run.
const MAX_ROUNDS: usize = 32;

/// Drives one session until it is over and its last words are said, over one stream after the other if the session may
/// be resumed.
///
/// It polls both directions and waits for neither inside the other: a peer that does not read is still read from.
pub(crate) struct Driver<N: Source, F> {
    /// `None` while the session is detached.
    connection: Option<Connection<N::Stream>>,
    later: N,
    shared: Arc<Shared>,
    /// Starts the service, once the client has said what it wants.
    start: Option<F>,
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    /// It has let others go first since it last wrote.
    yielded: bool,
}

impl<N, F> Driver<N, F>
where
    N: Source<Stream: AsyncBufRead + AsyncWrite + Unpin>,
    F: FnOnce(Arc<Shared>, Request) + Unpin,
{
    pub(crate) fn new(stream: N::Stream, later: N, shared: Arc<Shared>, start: Option<F>) -> Self {
        Self {
            connection: Some(Connection::new(stream, FIRST_EPOCH)),
            later,
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

    /// Does one round of everything. Returns whether another is worth it; `false` at the end.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if N::RESUMES {
            self.look_at_the_connection();
            if self.connection.is_none() && self.shared.is_over() {
                return Poll::Ready(false);
            }
            if self.poll_attach(cx) {
                return Poll::Ready(true);
            }
        }
        let Some(connection) = &mut self.connection else {
            return if self.poll_timer(cx) { Poll::Ready(true) } else { Poll::Pending };
        };
        let wrote = connection.poll_write(cx, &self.shared);
        let read = match connection.poll_read(cx, &self.shared) {
            Read::Nothing => false,
            Read::Some => {
                self.start();
                true
            }
            Read::End => {
                connection.end();
                false
            }
        };
        if let Some(connection) = &self.connection
            && connection.is_over()
        {
            // Nothing more will come, and nothing more is worth sending.
            let epoch = connection.epoch();
            self.shared.drive(|endpoint| endpoint.handle_loss(epoch, now()));
            return Poll::Ready(N::RESUMES && self.drop_detached());
        }
        if wrote || read || self.poll_timer(cx) { Poll::Ready(true) } else { Poll::Pending }
    }

    /// Passes a change of the connection on, if there was one, and drops a stream whose inputs count no more.
    fn look_at_the_connection(&mut self) {
        if self.shared.take_connection_change() {
            let state = self.shared.quietly(|endpoint| endpoint.connection());
            self.later.changed(state);
            self.drop_detached();
        }
    }

    /// Drops a stream whose inputs count no more. Returns whether there was one.
    fn drop_detached(&mut self) -> bool {
        let attached = self.shared.quietly(|endpoint| endpoint.attached());
        self.connection.take_if(|connection| attached != Some(connection.epoch())).is_some()
    }

    /// Attaches the next connection, if there is one. It replaces the one before, which may not be known to be lost.
    fn poll_attach(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(next) = self.later.poll_next(cx, self.connection.is_none()) else { return false };
        match next {
            NextStream::Claimed { stream, claim } => {
                match self.shared.drive(|endpoint| endpoint.attach(now(), &claim)) {
                    Attach::Attached(epoch) => self.connection = Some(Connection::new(stream, epoch)),
                    Attach::Stale => drop(stream),
                    Attach::Over(tombstone) => self.later.refuse(stream, tombstone, self.shared.limits()),
                }
            }
            NextStream::Dialled { stream, exporter } => {
                if let Some(epoch) = self.shared.drive(|endpoint| endpoint.resume(now(), &exporter)) {
                    self.connection = Some(Connection::new(stream, epoch));
                }
            }
            NextStream::Refused(reason) => self.shared.shut_down(reason),
        }
        true
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        // What was appended since the writing stopped for want of it has woken nobody.
        let hungry = self.connection.as_ref().is_some_and(Connection::is_hungry);
        let (waker, armed) = (cx.waker().clone(), self.armed);
        let Rest::Until(wanted) = self.shared.quietly(|endpoint| endpoint.sleep(waker, hungry, armed)) else {
            self.shared.drive(|_| ());
            return true;
        };
        if wanted.is_none() {
            self.set_last_call();
        }
        // A timer that comes too early costs one look. To set it anew whenever something was heard would cost more.
        let wanted =
            [wanted, self.connection.as_ref().and_then(Connection::last_call)].into_iter().flatten().min();
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
            None => self.set_last_call(),
        }
    }

    fn set_last_call(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.set_last_call(&self.shared);
        }
    }

    fn handle_timeout(&mut self) {
        let is_lost = self.shared.drive(|endpoint| endpoint.handle_timeout(now()));
        if N::RESUMES && is_lost {
            self.drop_detached();
        }
        if let Some(connection) = &mut self.connection {
            connection.shrink();
            if is_lost {
                connection.stop_writing(&self.shared);
            }
        }
    }
}

impl<N, F> Future for Driver<N, F>
where
    N: Source<Stream: AsyncBufRead + AsyncWrite + Unpin>,
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
                return Poll::Ready(self.shared.with(|endpoint| endpoint.cause()));
            }
        }
        // Nothing is put off because there is always something to read.
        self.look_at_the_clock();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<N: Source, F> Drop for Driver<N, F> {
    /// However the driver ends, the session has its end, and all that is due is delivered.
    fn drop(&mut self) {
        self.shared.leave();
    }
}
