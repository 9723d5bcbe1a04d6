//! A new session after each one that ends.

use std::time::Duration;

use lib_chan::protocol::Transmit;
use lib_chan::{Channel, ExitReason};
use tokio::time::{Instant, sleep};

use super::Connect;
use super::connector::random_fraction;
use super::error::ConnectError;
use super::retry::Backoff;
use super::step::Step;

/// The bounds of the wait before a new session.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

impl Connect<'_> {
    /// Runs `work` with a channel, and again with a new channel whenever it returns an error.
    ///
    /// `work` returns `Ok` when it has nothing more to do; `keep` then returns the same value. `work` returns `Err` with
    /// the reason of the end when its session has ended. `keep` then connects again after a random time from 0 to a bound.
    /// The bound is 100 ms at first and doubles up to 30 s; it returns to 100 ms once a session has lasted for 30 s. The
    /// same happens if the client cannot connect and the error is [transient](ConnectError::is_transient). `keep` never
    /// gives up by itself: wrap it in [`tokio::time::timeout`], or let `work` count.
    ///
    /// Each channel belongs to a *new* session. The service starts anew, with the same arguments, and nothing of the old
    /// session survives:
    ///
    /// - Casts that the old session had accepted have arrived, or not. `keep` sends nothing again.
    /// - A call that was open has ended with an error that says whether it was executed. Call again only if it was not,
    ///   or if calling twice does no harm.
    /// - Links and monitors across the old session have fired. The new session has none.
    /// - The service has forgotten what it kept for this client, such as subscriptions.
    ///
    /// ```no_run
    /// use chan_client::connect;
    /// use lib_chan::{Channel, ExitReason, Message, secret::Password};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let password = Password::from_file("news.password")?;
    /// let news = connect("chan://example.net:1234/news?system").password(password);
    /// news.keep(|mut chan: Channel<String, String>| async move {
    ///     let remote = chan.remote();
    ///     remote.cast("subscribe").await?;
    ///     while let Some(message) = chan.recv().await {
    ///         if let Message::Cast(news) = message {
    ///             println!("{news}");
    ///         }
    ///     }
    ///     Err::<(), ExitReason>(remote.ended().await)
    /// })
    /// .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Dropping the future drops `work` and its channel.
    ///
    /// # Errors
    ///
    /// Returns the first error of a connection that is not transient, such as a refused login.
    pub async fn keep<In, Out: Transmit, T, F, W>(self, mut work: F) -> Result<T, ConnectError>
    where
        F: FnMut(Channel<In, Out>) -> W,
        W: Future<Output = Result<T, ExitReason>>,
    {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let why = match self.open_again().await {
                Ok(chan) => {
                    let began = Instant::now();
                    match work(chan).await {
                        Ok(value) => return Ok(value),
                        Err(reason) => {
                            if began.elapsed() >= LONGEST_WAIT {
                                backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
                            }
                            format!("the session ended ({reason})")
                        }
                    }
                }
                Err(error) if error.is_transient() => error.to_string(),
                Err(error) => return Err(error),
            };
            let again_in = backoff.next(random_fraction());
            (self.on_step)(Step::Retrying { why: why.into(), again_in });
            sleep(again_in).await;
        }
    }
}
