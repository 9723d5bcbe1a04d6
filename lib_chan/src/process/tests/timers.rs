//! Timers of a process, on a paused clock.

use tokio::time::Instant;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// The next message, and how long after `start` it came.
async fn next(me: &mut Process<u32>, start: Instant) -> (u32, Duration) {
    let Event::Message(message) = me.recv().await else { panic!("a message") };
    (message, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn timers_come_in_order_of_their_times() {
    let ended = enter(async |mut me: Process<u32>| {
        let start = Instant::now();
        for seconds in [3, 1, 2] {
            me.send_after(seconds * SECOND, seconds);
        }
        for seconds in [1, 2, 3] {
            assert_eq!(next(&mut me, start).await, (seconds, seconds * SECOND));
        }
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn earlier_messages_come_before_a_due_timer() {
    let ended = enter(async |mut me: Process<u32>| {
        me.send_after(SECOND, 3);
        for number in [1, 2] {
            me.address().send(number).await?;
        }
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(me.recv().await, Event::Message(1));
        // The time has come: the timer has its place now, and this message is behind it.
        me.address().send(4).await?;
        for number in [2, 3, 4] {
            assert_eq!(me.recv().await, Event::Message(number));
        }
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn cancelled_timer_is_never_received() {
    let ended = enter(async |mut me: Process<u32>| {
        let waiting = me.send_after(SECOND, 1);
        assert!(me.cancel_timer(waiting));
        assert!(!me.cancel_timer(waiting));

        // This one is due, and its marker is in the mailbox behind the message.
        let queued = me.send_after(SECOND, 2);
        me.address().send(3).await?;
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(me.recv().await, Event::Message(3));
        assert!(me.cancel_timer(queued));

        let received = me.send_after(SECOND, 4);
        assert_eq!(me.recv().await, Event::Message(4));
        assert!(!me.cancel_timer(received));
        assert_eq!(me.recv_within(10 * SECOND).await, None);
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn interval_skips_the_times_it_missed() {
    let ended = enter(async |mut me: Process<u32>| {
        let start = Instant::now();
        let mut count = 0;
        let interval = me.send_interval(2 * SECOND, move || {
            count += 1;
            count
        });
        assert_eq!(next(&mut me, start).await, (1, 2 * SECOND));
        assert_eq!(next(&mut me, start).await, (2, 4 * SECOND));
        // Three times pass: one message comes at once, and then the next at its multiple.
        tokio::time::sleep(7 * SECOND).await;
        assert_eq!(next(&mut me, start).await, (3, 11 * SECOND));
        assert_eq!(next(&mut me, start).await, (4, 12 * SECOND));
        assert!(me.cancel_timer(interval));
        assert_eq!(me.recv_within(10 * SECOND).await, None);
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn interval_without_a_period_starves_no_message() {
    let ended = enter(async |mut me: Process<u32>| {
        me.send_interval(Duration::ZERO, || 0);
        let mut received = [0, 0];
        for _ in 0..100 {
            me.address().send(1).await?;
            let Event::Message(kind) = me.recv().await else { panic!("a message") };
            received[kind as usize] += 1;
            // Longer than the period, so the timer is always due.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // More comes than is taken, so messages queue, and each tick waits its turn behind them.
        assert!(received[0] >= 5 && received[1] >= 50, "{received:?}");
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn timeout_and_timer_keep_their_own_times() {
    let ended = enter(async |mut me: Process<u32>| {
        let start = Instant::now();
        me.send_after(5 * SECOND, 1);
        assert_eq!(me.recv_within(SECOND).await, None);
        assert_eq!(start.elapsed(), SECOND);
        assert_eq!(me.recv_within(60 * SECOND).await, Some(Event::Message(1)));
        assert_eq!(start.elapsed(), 5 * SECOND);
        assert_eq!(me.recv_within(SECOND).await, None);
        assert_eq!(start.elapsed(), 6 * SECOND);
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn try_recv_takes_due_timers_only() {
    let ended = enter(async |mut me: Process<u32>| {
        me.send_after(SECOND, 1);
        me.send_after(Duration::MAX, 2);
        assert_eq!(me.try_recv(), None);
        tokio::time::sleep(SECOND).await;
        assert_eq!((me.try_recv(), me.try_recv()), (Some(Event::Message(1)), None));
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn timers_end_with_their_process() {
    let message = Arc::new(());
    let held = Arc::clone(&message);
    let process = spawn(async move |mut me: Process<Arc<()>>| {
        me.send_after(SECOND, Arc::clone(&held));
        me.send_interval(SECOND, move || Arc::clone(&held));
        std::future::pending().await
    });
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&message), 3);
    process.pid().exit(Kill);
    assert_eq!(process.pid().ended().await, Killed);
    assert_eq!(Arc::strong_count(&message), 1);
}

#[tokio::test(start_paused = true)]
async fn timers_pass_a_full_mailbox() {
    let process = spawn_with(
        SpawnOptions { mailbox_capacity: 1, ..SpawnOptions::default() },
        async |mut me: Process<u32>| {
            me.send_after(SECOND, 2);
            tokio::time::sleep(2 * SECOND).await;
            assert_eq!(me.recv().await, Event::Message(1));
            assert_eq!(me.recv().await, Event::Message(2));
            Ok(())
        },
    );
    process.send(1).await.unwrap();
    assert_eq!(process.try_send(3).unwrap_err().reason, ExitReason::Overload);
    assert_eq!(process.pid().ended().await, Normal);
}
