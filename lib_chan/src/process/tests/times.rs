//! Times: none, short, and longer than any clock can express.

use tokio::runtime::Builder;
use tokio::time::Instant;

use super::*;
use crate::after;

/// A runtime on which making a timer panics.
fn without_timers<T>(f: impl AsyncFnOnce(Process<u32>) -> Result<T, ExitReason>) -> Result<T, ExitReason> {
    Builder::new_current_thread().build().unwrap().block_on(enter(f))
}

#[test]
fn recv_within_no_time_needs_no_timer() {
    let got = without_timers(async |mut me| {
        let nothing = me.recv_within(Duration::ZERO).await;
        me.address().send(1).await.map_err(|error| error.reason)?;
        Ok((nothing, me.recv_within(Duration::ZERO).await))
    });
    assert_eq!(got, Ok((None, Some(Event::Message(1)))));
}

#[test]
fn recv_within_sets_no_timer_for_ready_message() {
    let got = without_timers(async |mut me| {
        me.address().send(1).await.map_err(|error| error.reason)?;
        Ok(me.recv_within(LONG).await)
    });
    assert_eq!(got, Ok(Some(Event::Message(1))));
}

#[test]
fn try_recv_takes_ready_message() {
    let got = without_timers(async |mut me| {
        let nothing = me.try_recv();
        for number in [1, 2] {
            me.address().send(number).await.map_err(|error| error.reason)?;
        }
        Ok([nothing, me.try_recv(), me.try_recv(), me.try_recv()])
    });
    assert_eq!(got, Ok([None, Some(Event::Message(1)), Some(Event::Message(2)), None]));
}

#[test]
fn polling_process_can_be_killed() {
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let process = spawn(async |mut me: Process| {
            loop {
                me.recv_within(Duration::ZERO).await;
            }
        });
        tokio::task::yield_now().await;
        process.pid().exit(Kill);
        assert_eq!(process.pid().ended().await, Killed);
    });
}

/// Each receive ends at its own time, whatever the one before has set its timer to.
#[tokio::test(start_paused = true)]
async fn each_timeout_counts_from_its_own_receive() {
    let ended = enter(async |mut me: Process<u32>| {
        let seconds = Duration::from_secs;
        for within in [60, 1, 10, 2, 120] {
            let (start, to) = (Instant::now(), me.address());
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                to.send(1).await
            });
            assert_eq!(me.recv_within(seconds(within)).await, Some(Event::Message(1)));
            assert_eq!(start.elapsed(), Duration::ZERO);
            assert_eq!(me.recv_within(seconds(within)).await, None);
            assert!((seconds(within)..seconds(within) + Duration::from_millis(2)).contains(&start.elapsed()));
        }
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test]
async fn times_without_end_are_times() {
    let echo = spawn(async |mut me: Process<(u32, Reply<u32>)>| {
        while let Some(Event::Message((number, reply))) = me.recv_within(Duration::MAX).await {
            reply.send(number);
        }
        Ok(())
    });
    assert_eq!(echo.call(Duration::MAX, |reply| (7, reply)).await, Ok(7));
    assert!(after(std::time::Instant::now(), Duration::MAX) > std::time::Instant::now() + LONG);
}
