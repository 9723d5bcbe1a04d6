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
