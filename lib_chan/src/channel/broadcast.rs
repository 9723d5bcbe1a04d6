//! One source of messages for many sessions, of which some are slow.

use std::pin::pin;

use serde::Serialize;
use tokio::{
    select,
    sync::{broadcast, watch},
};

use super::Remote;
use crate::CastError;

impl<Out: Serialize + 'static> Remote<Out> {
    /// Casts the value of a [`watch`] channel, and each later one, until the channel's sender is dropped. A value that is
    /// replaced while the far end takes no more is skipped, so a slow far end gets fewer values, and always the last.
    ///
    /// One task for each session keeps a slow one from delaying the others.
    ///
    /// ```
    /// # use lib_chan::Remote;
    /// # use tokio::sync::watch;
    /// # fn spawn_viewer(viewer: Remote<u64>, temperature: watch::Receiver<u64>) {
    /// tokio::spawn(async move { viewer.cast_latest(temperature).await });
    /// # }
    /// ```
    ///
    /// Dropping the future drops the value that waits to be sent.
    ///
    /// # Errors
    /// Those of [`cast`](Self::cast). The end of the session is noticed at once, without a new value.
    pub async fn cast_latest<T: Clone + Into<Out>>(
        &self,
        mut values: watch::Receiver<T>,
    ) -> Result<(), CastError> {
        let mut ended = pin!(self.ended());
        values.mark_changed();
        loop {
            select! {
                changed = values.changed() => if changed.is_err() { return Ok(()) },
                reason = &mut ended => return Err(CastError::Ended(reason)),
            }
            let value = values.borrow_and_update().clone();
            self.cast(value).await?;
        }
    }

    /// Casts each event of a [`broadcast`] channel, until the channel's senders are dropped. The channel keeps as many events
    /// as its capacity for a far end that is slow. If it had to drop some, the message `missed(count)` is cast in their
    /// place.
    ///
    /// One task for each session keeps a slow one from delaying the others.
    ///
    /// ```
    /// # use lib_chan::Remote;
    /// # use tokio::sync::broadcast;
    /// #[derive(Clone, serde::Serialize, serde::Deserialize)]
    /// enum Told {
    ///     Said(String),
    ///     Missed(u64),
    /// }
    ///
    /// # fn spawn_listener(listener: Remote<Told>, talk: broadcast::Receiver<Told>) {
    /// tokio::spawn(async move { listener.cast_events(talk, Told::Missed).await });
    /// # }
    /// ```
    ///
    /// Dropping the future drops the event that waits to be sent.
    ///
    /// # Errors
    /// Those of [`cast`](Self::cast). The end of the session is noticed at once, without a new event.
    pub async fn cast_events<T: Clone + Into<Out>>(
        &self,
        mut events: broadcast::Receiver<T>,
        mut missed: impl FnMut(u64) -> Out,
    ) -> Result<(), CastError> {
        let mut ended = pin!(self.ended());
        loop {
            let message = select! {
                event = events.recv() => match event {
                    Ok(event) => event.into(),
                    Err(broadcast::error::RecvError::Lagged(count)) => missed(count),
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                reason = &mut ended => return Err(CastError::Ended(reason)),
            };
            self.cast(message).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::{Channel, ExitReason, Message, testing::pair};

    /// A number, and bytes that fill the window.
    #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
    enum Told {
        Number(u64, Vec<u8>),
        Missed(u64),
    }

    const COUNT: u64 = 500;

    fn numbered(number: u64) -> Told {
        Told::Number(number, vec![0; 4096])
    }

    /// What comes until the last number: numbers, and how many were missed in all.
    async fn receive(chan: &mut Channel<Told>) -> (Vec<u64>, u64) {
        let (mut numbers, mut missed) = (Vec::new(), 0);
        while numbers.last() != Some(&COUNT) {
            match chan.recv().await {
                Some(Message::Cast(Told::Number(number, _))) => numbers.push(number),
                Some(Message::Cast(Told::Missed(count))) => missed += count,
                other => panic!("{other:?}"),
            }
        }
        assert!(numbers.is_sorted(), "{numbers:?}");
        (numbers, missed)
    }

    #[tokio::test(start_paused = true)]
    async fn slow_end_gets_latest_value() {
        let (client, mut server, _line) = pair().open::<Told, Told>().await.unwrap();
        let (sender, values) = watch::channel(numbered(0));
        let remote = client.remote();
        let casting = tokio::spawn(async move { remote.cast_latest(values).await });
        for number in 1..=COUNT {
            sender.send(numbered(number)).unwrap();
            yield_now().await;
        }
        let (numbers, _) = receive(&mut server).await;
        assert!(numbers.len() < COUNT as usize, "{}", numbers.len());
        drop(sender);
        assert_eq!(casting.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_end_learns_how_many_it_missed() {
        let (client, mut server, _line) = pair().open::<Told, Told>().await.unwrap();
        let (sender, events) = broadcast::channel(16);
        let remote = client.remote();
        let casting = tokio::spawn(async move { remote.cast_events(events, Told::Missed).await });
        for number in 1..=COUNT {
            sender.send(numbered(number)).unwrap();
            yield_now().await;
        }
        let (numbers, missed) = receive(&mut server).await;
        assert!(missed > 0);
        assert_eq!(numbers.len() as u64 + missed, COUNT);
        drop(sender);
        assert_eq!(casting.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn end_of_session_ends_broadcast() {
        let (client, _server, line) = pair().open::<Told, Told>().await.unwrap();
        let ((_values, latest), (_events, events)) = (watch::channel(numbered(0)), broadcast::channel(1));
        let remotes = (client.remote(), client.remote());
        let latest = tokio::spawn(async move { remotes.0.cast_latest::<Told>(latest).await });
        let events = tokio::spawn(async move { remotes.1.cast_events::<Told>(events, Told::Missed).await });
        yield_now().await;
        line.cut();
        let gone = Err(CastError::Ended(ExitReason::NoConnection));
        assert_eq!((latest.await.unwrap(), events.await.unwrap()), (gone.clone(), gone));
    }
}
