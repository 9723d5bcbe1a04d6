//! Links between the owners of the two ends.

use super::*;

/// The owner of one end of a session.
struct Owner {
    process: crate::Address<Order>,
    /// Returns the reason with which the session has ended at this end.
    session: JoinHandle<ExitReason>,
}

impl Owner {
    fn new<Out: Serialize + Send + Sync + 'static>(
        process: crate::Address<Order>,
        remote: crate::Remote<Out>,
    ) -> Self {
        Self { process, session: tokio::spawn(async move { remote.ended().await }) }
    }
}

/// A session whose ends are owned by a process each that [acts](act): the client's, and the service.
async fn two_owners() -> (Owner, Owner) {
    let (tell_service, told) = oneshot::channel();
    let (channel, _served) = session(&Limits::default(), false, move |opening| {
        spawn(async move |mut me: Process<Order>| {
            let channel: Channel<Request, String> = opening.accept();
            let _ = tell_service.send((me.address(), channel.remote()));
            act(&mut me, channel.remote()).await
        });
    })
    .await;
    let (service, service_remote) = told.await.unwrap();
    let client_remote = channel.remote();
    let client = spawn(async move |mut me: Process<Order>| {
        let mut channel = channel;
        // The first look makes this process the owner.
        assert!(tokio::time::timeout(Duration::ZERO, channel.recv()).await.is_err());
        act(&mut me, channel.remote()).await
    });
    (Owner::new(client, client_remote), Owner::new(service, service_remote))
}

/// Links to the far owner or takes the link back as it is told, until the far end knows, and shows what it saw.
async fn act<Out: Serialize + Send + Sync + 'static>(
    me: &mut Process<Order>,
    remote: crate::Remote<Out>,
) -> Result<(), ExitReason> {
    let (far, mut seen) = (remote.pid(), Vec::new());
    loop {
        match me.recv().await {
            Event::Message(Order::Note(text)) => {
                match &*text {
                    "link" => me.link(far.clone())?,
                    "unlink" => me.unlink(far.clone()),
                    text => return Err(ExitReason::failed(text)),
                }
                remote.flush().await?;
            }
            Event::Message(Order::Do(order)) => order(me)?,
            Event::Message(Order::Show(reply)) => reply.send(seen.clone()),
            Event::Exit(from, reason) => seen.push(format!("{} {reason}", from == far)),
            Event::Down(_, _, reason) => seen.push(format!("down {reason}")),
        }
    }
}

/// Orders `to` to link or to unlink. Returns when the far end knows.
async fn order(to: &Owner, text: &str) {
    to.process.send(Order::Note(text.into())).await.unwrap();
    seen(&to.process, 0).await;
}

/// Ends the process with a failure.
async fn fail(owner: &Owner, text: &str) {
    owner.process.send(Order::Note(text.into())).await.unwrap();
    owner.process.pid().ended().await;
}

async fn trap(owner: &Owner) {
    tell(&owner.process, |me| {
        me.trap_exit(true);
        Ok(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn normal_end_of_linked_client_harms_no_service() {
    let (client, service) = two_owners().await;
    order(&client, "link").await;
    tell(&client.process, |_| Err(ExitReason::Normal)).await;
    service.session.await.unwrap();
    assert!(seen(&service.process, 0).await.is_empty(), "it answers: it is alive");
}

#[tokio::test(start_paused = true)]
async fn client_link_brings_its_reason() {
    let (client, service) = two_owners().await;
    trap(&service).await;
    order(&client, "link").await;
    order(&service, "link").await;
    fail(&client, "boom").await;
    assert_eq!(
        seen(&service.process, 1).await,
        ["true failed: boom"],
        "one exit, from the pid of the remote"
    );
}

#[tokio::test(start_paused = true)]
async fn service_link_brings_its_reason_to_client() {
    let (client, service) = two_owners().await;
    trap(&client).await;
    // A service is linked to its client from the start, but the client is not linked to it.
    order(&service, "link").await;
    fail(&service, "boom").await;
    assert_eq!(seen(&client.process, 1).await, ["true failed: boom"]);
}

#[tokio::test(start_paused = true)]
async fn service_unlinks_what_it_linked() {
    let (client, service) = two_owners().await;
    trap(&client).await;
    order(&service, "link").await;
    order(&service, "unlink").await;
    fail(&service, "boom").await;
    client.session.await.unwrap();
    assert!(seen(&client.process, 0).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn service_that_is_not_linked_tells_client_nothing() {
    let (client, service) = two_owners().await;
    trap(&client).await;
    fail(&service, "boom").await;
    client.session.await.unwrap();
    assert!(seen(&client.process, 0).await.is_empty());
}
