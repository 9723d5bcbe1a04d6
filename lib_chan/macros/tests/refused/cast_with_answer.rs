use lib_chan_macros::protocol;

#[protocol]
trait Names {
    fn lookup(key: String) -> Option<String>;
}

fn main() {}
