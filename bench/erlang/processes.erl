%% The same work as src/local, done by Erlang's processes.
-module(processes).
-export([main/2]).

-define(BURST, 50000).
-define(SPAWNED, 10000).
-define(IDLE, 100000).
-define(LINKED, 10000).

main(Work, Millis) ->
    Start = erlang:monotonic_time(),
    Until = Start + erlang:convert_time_unit(Millis, millisecond, native),
    {Count, BytesEach} = measure(Work, Until),
    Elapsed = erlang:convert_time_unit(erlang:monotonic_time() - Start, native, nanosecond),
    io:format("{\"count\":~b,\"seconds\":~f~s}~n", [Count, Elapsed / 1.0e9, BytesEach]),
    halt().

measure(one_way, Until) -> {one_way(fun read/3, 1, Until), ""};
measure(four_to_one, Until) -> {one_way(fun read/3, 4, Until), ""};
measure(timeout, Until) -> {one_way(fun read_in_time/3, 1, Until), ""};
measure(Empty, Until) when Empty =:= empty; Empty =:= empty_within -> {look_until(Until, 0), ""};
measure(Call, Until) when Call =:= call; Call =:= call_from_main -> {call_until(Until), ""};
measure(ping_pong, Until) -> {ping_pong(Until), ""};
measure(spawn, Until) -> {spawn_until(Until, 0), ""};
measure(idle, _) ->
    _ = spawn_idle(1000),
    Before = erlang:memory(processes),
    _ = spawn_idle(?IDLE),
    Each = (erlang:memory(processes) - Before) / ?IDLE,
    {?IDLE, io_lib:format(",\"bytes_each\":~f", [Each])};
measure(Shape, Until) ->
    Times = lists:sort(collapse_until(Shape, Until, [])),
    Median = lists:nth(length(Times) div 2 + 1, Times),
    {?LINKED * length(Times), io_lib:format(",\"median_ns\":~b", [Median])}.

%% One way.

one_way(Read, Senders, Until) ->
    Reader = spawn(fun() -> Read(#{}, 0, 0) end),
    Me = self(),
    [spawn_link(fun() -> Me ! {sent, send_bursts(Reader, N, 0, Until)} end) || N <- lists:seq(1, Senders)],
    Sent = lists:sum([receive {sent, S} -> S end || _ <- lists:seq(1, Senders)]),
    {Sent, 0} = done(Reader),
    Sent.

send_bursts(Reader, Sender, Sent, Until) ->
    case is_over(Until) of
        true -> Sent;
        false ->
            send_burst(Reader, Sender, Sent, Sent + ?BURST),
            _ = done(Reader),
            send_bursts(Reader, Sender, Sent + ?BURST, Until)
    end.

send_burst(_, _, End, End) -> ok;
send_burst(Reader, Sender, Number, End) ->
    Reader ! {Sender, Number},
    send_burst(Reader, Sender, Number + 1, End).

done(Reader) ->
    Reader ! {done, self()},
    receive {arrived, Arrived, Wrong} -> {Arrived, Wrong} end.

read(Next, Arrived, Wrong) ->
    receive
        {done, From} ->
            From ! {arrived, Arrived, Wrong},
            read(Next, Arrived, Wrong);
        {Sender, Number} ->
            Due = maps:get(Sender, Next, 0),
            read(Next#{Sender => Number + 1}, Arrived + 1, Wrong + wrong(Due, Number))
    end.

read_in_time(Next, Arrived, Wrong) ->
    receive
        {done, From} ->
            From ! {arrived, Arrived, Wrong},
            read_in_time(Next, Arrived, Wrong);
        {Sender, Number} ->
            Due = maps:get(Sender, Next, 0),
            read_in_time(Next#{Sender => Number + 1}, Arrived + 1, Wrong + wrong(Due, Number))
    after 60000 -> exit(late)
    end.

wrong(N, N) -> 0;
wrong(_, _) -> 1.

%% Looks into an empty mailbox.

look_until(Until, Looks) ->
    case is_over(Until) of
        true -> Looks;
        false -> look(1000), look_until(Until, Looks + 1000)
    end.

look(0) -> ok;
look(N) ->
    receive Found -> exit({found, Found}) after 0 -> ok end,
    look(N - 1).

%% Calls, as gen makes them, to a process that is as small as ours.

call_until(Until) ->
    Server = spawn_link(fun answer/0),
    call_until(Server, Until, 0).

call_until(Server, Until, Calls) ->
    case Calls rem 64 =:= 0 andalso is_over(Until) of
        true -> Calls;
        false ->
            {ok, Next} = gen:call(Server, next, Calls, 60000),
            Next = Calls + 1,
            call_until(Server, Until, Next)
    end.

answer() ->
    receive {next, From, Number} -> gen:reply(From, Number + 1), answer() end.

%% Ping-pong.

ping_pong(Until) ->
    Me = self(),
    Other = spawn_link(fun() -> hit_back(1) end),
    spawn_link(fun() -> Other ! {self(), 1}, serve(Other, 2, Until, Me) end),
    receive {rounds, Rounds} -> Rounds end.

hit_back(Ball) ->
    receive
        {From, Ball} ->
            From ! {self(), Ball + 1},
            hit_back(Ball + 2)
    end.

serve(Other, Ball, Until, Tell) ->
    receive
        {Other, Ball} ->
            case Ball rem 128 =:= 0 andalso is_over(Until) of
                true -> Tell ! {rounds, Ball div 2};
                false ->
                    Other ! {self(), Ball + 1},
                    serve(Other, Ball + 2, Until, Tell)
            end
    end.

%% Spawn and end.

spawn_until(Until, Spawned) ->
    case is_over(Until) of
        true -> Spawned;
        false ->
            Left = atomics:new(1, []),
            atomics:put(Left, 1, ?SPAWNED),
            Me = self(),
            spawn_brief(?SPAWNED, Left, Me),
            receive all_ended -> ok end,
            spawn_until(Until, Spawned + ?SPAWNED)
    end.

spawn_brief(0, _, _) -> ok;
spawn_brief(N, Left, Tell) ->
    spawn(fun() ->
        case atomics:sub_get(Left, 1, 1) of
            0 -> Tell ! all_ended;
            _ -> ok
        end
    end),
    spawn_brief(N - 1, Left, Tell).

%% Idle.

spawn_idle(Count) ->
    Me = self(),
    Pids = [spawn(fun() -> Me ! up, receive stop -> ok end end) || _ <- lists:seq(1, Count)],
    [receive up -> ok end || _ <- Pids],
    Pids.

%% Processes that are linked, one of which fails.

collapse_until(Shape, Until, Times) ->
    case Times =/= [] andalso is_over(Until) of
        true -> Times;
        false -> collapse_until(Shape, Until, [collapse(Shape) | Times])
    end.

collapse(Shape) ->
    [First | Rest] = Pids = [spawn(fun obey/0) || _ <- lists:seq(1, ?LINKED)],
    _ = lists:foldl(fun(Pid, Last) -> link_to(Pid, case Shape of star -> First; _ -> Last end), Pid end, First, Rest),
    _ = [link_to(First, lists:last(Rest)) || Shape =:= ring],
    Monitors = [monitor(process, Pid) || Pid <- Pids],
    Start = erlang:monotonic_time(),
    First ! fail,
    _ = [receive {'DOWN', _, process, _, boom} -> ok end || _ <- Monitors],
    erlang:convert_time_unit(erlang:monotonic_time() - Start, native, nanosecond).

link_to(Pid, Other) ->
    Pid ! {link, Other, self()},
    receive linked -> ok end.

obey() ->
    receive
        {link, Other, From} ->
            link(Other),
            From ! linked,
            obey();
        fail -> exit(boom)
    end.

is_over(Until) -> erlang:monotonic_time() >= Until.
