//! Processes other than the owner.

use super::*;

#[tokio::test(start_paused = true)]
async fn undecodable_cast_to_handed_process_ends_session() {
    let (_here, there, _far, _near, channel) = two_processes().await;
    let remote = channel.remote();
    // The first process that the server hands out; it takes texts, and this says that one byte follows.
    remote.handed::<u8>(1).try_cast(&1).unwrap();
    let reason = remote.ended().await;
    assert!(reason.to_string().contains("a cast cannot be decoded"), "{reason:?}");
    tell(&there, |_| Err(ExitReason::failed("it lives on"))).await;
    assert_eq!(there.pid().ended().await, ExitReason::failed("it lives on"));
}

#[tokio::test(start_paused = true)]
async fn message_before_end_reaches_handed_out_process() {
    let (_here, there, _far, _near, channel) = two_processes().await;
    channel.remote().handed::<String>(1).try_cast(&"last".into()).unwrap();
    drop(channel);
    assert_eq!(seen(&there, 1).await, ["last"]);
}

#[tokio::test(start_paused = true)]
async fn far_monitor_hears_reason_that_ends_owner_too() {
    let (here, there, _far, near, mut channel) = two_processes().await;
    let remote = channel.remote();
    let worker = here.pid();
    let owner = spawn(async move |me: Process| {
        me.link(worker)?;
        channel.recv().await;
        Ok(())
    });
    tell(&there, move |me| {
        me.monitor(near);
        Ok(())
    })
    .await;
    assert!(seen(&there, 0).await.is_empty());
    // The answer is behind the monitor.
    remote.flush().await.unwrap();
    tell(&here, |_| Err(ExitReason::failed("boom"))).await;
    assert_eq!(owner.pid().ended().await, ExitReason::failed("boom"));
    assert_eq!(seen(&there, 1).await, ["down failed: boom"]);
}
