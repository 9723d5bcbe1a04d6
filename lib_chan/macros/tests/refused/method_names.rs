use lib_chan_macros::protocol;

#[protocol]
trait Names {
    async fn call(key: String);
    fn send(key: String);
    fn store_all(key: String);
    async fn storeAll(key: String);
}

fn main() {}
