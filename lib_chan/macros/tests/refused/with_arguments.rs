use lib_chan_macros::protocol;

#[protocol(version = 2)]
trait Names {
    fn store(key: String);
}

fn main() {}
