//! The job queue, tried without a network.

use chan_examples::jobs::{FromClient, Job, Jobs, JobsMessage, Status, queue, start, work};
use lib_chan::{Names, Process, Remote, spawn, testing};

struct Place(Names<FromClient>);

impl Place {
    fn new() -> Self {
        let names = Names::new();
        names.register("queue", &spawn(queue)).unwrap();
        Self(names)
    }

    /// A client, and the line to it.
    async fn client(&self) -> (Remote<JobsMessage>, testing::Line) {
        let names = self.0.clone();
        let service = async move |me: Process, chan| start(&me, chan, &names);
        let (chan, line) = testing::pair().serve(service).await.unwrap();
        (chan.into_remote(), line)
    }
}

fn status(waiting: u64, running: u64, done: u64) -> Status {
    Status { waiting, running, done }
}

#[tokio::test]
async fn jobs_are_run_by_workers() {
    let place = Place::new();
    let (submitter, _line) = place.client().await;
    for _ in 0..2 {
        let (worker, line) = place.client().await;
        tokio::spawn(async move {
            let _line = line;
            work(
                &worker,
                async |input| if input.is_empty() { Err("empty".into()) } else { Ok(input.repeat(2)) },
            )
            .await
        });
    }
    for number in 0..100 {
        let input = number.to_string();
        assert_eq!(submitter.submit(input.clone()).await, Ok(Ok(input.repeat(2))));
    }
    assert_eq!(submitter.submit("").await, Ok(Err("empty".into())));
}

#[tokio::test]
async fn job_of_lost_worker_goes_to_next() {
    let place = Place::new();
    let (submitter, _line) = place.client().await;
    let submitted = tokio::spawn(async move { submitter.submit("job").await });
    let (lost, line) = place.client().await;
    let job = Job { id: 1, input: "job".into() };
    assert_eq!(lost.take().await, Ok(job.clone()));
    let (worker, _line) = place.client().await;
    // Only the worker that has a job may end it.
    worker.done(1, Ok("mine".into())).await.unwrap();
    line.cut();
    assert_eq!(worker.take().await, Ok(job));
    worker.done(1, Ok("done".into())).await.unwrap();
    assert_eq!(submitted.await.unwrap(), Ok(Ok("done".into())));
}

#[tokio::test]
async fn cancelled_job_is_not_run() {
    let place = Place::new();
    let (dashboard, _line) = place.client().await;
    let (submitter, line) = place.client().await;
    tokio::spawn(async move { submitter.submit("in vain").await });
    assert_eq!(dashboard.status(Some(status(0, 0, 0))).await, Ok(status(1, 0, 0)));
    line.cut();
    assert_eq!(dashboard.status(Some(status(1, 0, 0))).await, Ok(status(0, 0, 0)));
}

#[tokio::test]
async fn slow_dashboard_sees_the_last_status() {
    let place = Place::new();
    let (dashboard, _line) = place.client().await;
    assert_eq!(dashboard.status(None).await, Ok(status(0, 0, 0)));
    let (client, _other) = place.client().await;
    for id in 1..=1000 {
        let submitter = client.clone();
        let submitted = tokio::spawn(async move { submitter.submit("job").await });
        assert_eq!(client.take().await.map(|job| job.id), Ok(id));
        client.done(id, Ok(String::new())).await.unwrap();
        submitted.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(dashboard.status(Some(status(0, 0, 0))).await, Ok(status(0, 0, 1000)));
}
