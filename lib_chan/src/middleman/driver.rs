//! The loop between a stream and an endpoint, with one timer.

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
    suspension::Suspensions,
    wake::now,
};
use crate::{
    ExitReason,
    session::{Attach, Endpoint, FIRST_EPOCH, Request, Rest, Rise},
};

/// The number of rounds after which the driver lets other tasks run.
const MAX_ROUNDS: usize = 32;

/// Drives one session until it is over and its last words are written. A session that may be resumed uses one stream
/// after the other.
///
/// The driver polls both directions and never waits for one inside the other, so it still reads from a peer that does
/// not read.
pub(crate) struct Driver<N: Source, F> {
    /// `None` while the session is detached.
    connection: Option<Connection<N::Stream>>,
    later: N,
    shared: Arc<Shared>,
    /// Starts the service, once the client's `Start` has come.
    start: Option<F>,
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    /// Set if the driver has let other tasks run since it last wrote.
    yielded: bool,
    suspensions: Suspensions,
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
            suspensions: Suspensions::new(),
        }
    }

    /// Starts the service that the client asked for.
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

    /// Reads, writes and looks at the timer once. Returns `true` if another round is worth it, and `false` at the
    /// end.
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
        connection.poll_write(cx, &self.shared);
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
            // The connection is gone in both directions, so output would be lost.
            let epoch = connection.epoch();
            self.shared.drive(|endpoint| endpoint.handle_loss(epoch, now()));
            return Poll::Ready(N::RESUMES && self.drop_detached());
        }
        if read || self.poll_timer(cx) { Poll::Ready(true) } else { Poll::Pending }
    }

    /// Reports a change of the connection, and drops a stream that is no longer attached.
    fn look_at_the_connection(&mut self) {
        if self.shared.take_connection_change() {
            let state = self.shared.quietly(|endpoint| endpoint.connection());
            self.later.changed(state);
            self.drop_detached();
        }
    }

    /// Drops a stream that is no longer attached. Returns whether there was one.
    fn drop_detached(&mut self) -> bool {
        let attached = self.shared.quietly(|endpoint| endpoint.attached());
        self.connection.take_if(|connection| attached != Some(connection.epoch())).is_some()
    }

    /// Attaches the next connection, if there is one. It replaces the previous one, which may not be known to be
    /// lost.
    fn poll_attach(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(next) = self.later.poll_next(cx, self.connection.is_none()) else { return false };
        match next {
            NextStream::Claimed { stream, claim } => {
                match self.shared.drive(|endpoint| endpoint.attach(now(), &claim)) {
                    Attach::Attached(epoch) => self.connection = Some(Connection::new(stream, epoch)),
                    Attach::Stale => drop(stream),
                    Attach::Over(tombstone) => {
                        self.later.refuse(stream, tombstone, self.shared.terms().limits())
                    }
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
        // Output that was appended since `poll_write` found nothing has woken nobody.
        let hungry = self.connection.as_ref().is_some_and(Connection::is_hungry);
        let (waker, armed) = (cx.waker().clone(), self.armed);
        let Rest::Until(wanted) = self.shared.quietly(|endpoint| endpoint.sleep(waker, hungry, armed)) else {
            self.shared.drive(|_| ());
            self.set_dry(false);
            return true;
        };
        if wanted.is_none() {
            self.set_last_call();
        }
        // A timer that fires too early costs one check. Resetting it after every read would cost more.
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

    /// Does the work of the timer, for a driver that never gets to set it.
    fn look_at_the_clock(&mut self) {
        match self.shared.drive(|endpoint| endpoint.poll_timeout()) {
            Some(at) if at <= now() => self.handle_timeout(),
            Some(_) => {}
            None => self.set_last_call(),
        }
    }

    fn set_dry(&mut self, dry: bool) {
        if let Some(connection) = &mut self.connection {
            connection.set_dry(dry);
        }
    }

    fn set_last_call(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.set_last_call(&self.shared);
        }
    }

    fn handle_timeout(&mut self) {
        let is_lost = self.shared.drive(|endpoint| endpoint.handle_timeout(now()));
        self.set_dry(false);
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
        // Lets other tasks run once, so that the output that they are about to append goes into the same write.
        let rise = self.shared.quietly(Endpoint::rise);
        self.set_dry(rise == Rise::Nothing);
        if rise == Rise::MoreSoon && !std::mem::replace(&mut self.yielded, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.yielded = false;
        if N::RESUMES
            && let Some(time) = self.suspensions.since_last()
        {
            self.shared.drive(|endpoint| endpoint.handle_suspension(now(), time));
        }
        for _ in 0..MAX_ROUNDS {
            let again = ready!(self.poll_round(cx));
            if !again {
                return Poll::Ready(self.shared.with(|endpoint| endpoint.cause()));
            }
        }
        // A stream that always has something to read must not postpone the timers.
        self.look_at_the_clock();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<N: Source, F> Drop for Driver<N, F> {
    /// Ends the session, and makes the deliveries that are due, however the driver ends.
    fn drop(&mut self) {
        self.shared.leave();
    }
}
