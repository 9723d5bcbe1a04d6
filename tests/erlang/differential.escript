#!/usr/bin/env escript
%% -*- erlang -*-
%%! -noinput +S 1:1 +A 1 -kernel logger_level none -connect_all false -kernel prevent_overlapping_partitions false -kernel inet_dist_use_interface {127,0,0,1} -epmd_module differential -setcookie none
%% Runs programs of processes, links, monitors and exits, and says what each process saw: the other side of
%% tests/src/differential. It reads and writes packets of a length of 4 bytes on its standard input and output; a
%% packet holds any number of programs, its answer as many traces, each behind a length of its own.
%%
%% With "one" all processes are in this node; with "two" they are in two others, which this one starts. Those are
%% connected to it and to each other, and an end of a session there is a node here. Only what is told to connect does.
%% They find each other without a registry of nodes, and on the loopback interface only.
%%
%% One scheduler: nothing here is about how Erlang's threads race, and all that is sent has arrived when the next
%% process runs.
-module(differential).
-mode(compile).
-export([main/1, live/3, keeper/1]).
-export([start_node/2, know/2, start_link/0, register_node/2, register_node/3, listen_port_please/2, address_please/3]).

-define(OUTSIDE, 255).

main([Ends]) ->
    Port = open_port({fd, 0, 1}, [binary, eof, {packet, 4}]),
    put(ends, start(Ends)),
    serve(Port).

serve(Port) ->
    receive
        {Port, {data, Programs}} ->
            port_command(Port, batch(Programs, get(ends))),
            serve(Port);
        {Port, eof} ->
            ok
    end.

batch(<<>>, _) -> [];
batch(<<Len:32, Program:Len/binary, Rest/binary>>, Ends) ->
    %% Each has a driver of its own, so nothing of one is left for the next.
    {Driver, Ref} = spawn_monitor(fun() -> exit({trace, run(Program, Ends)}) end),
    receive
        {'DOWN', Ref, process, Driver, {trace, Trace}} ->
            Bytes = iolist_to_binary(Trace),
            [<<(byte_size(Bytes)):32>>, Bytes | batch(Rest, Ends)]
    end.

%% ------------------------------------------------------------------------------------------------ the ends

%% Where the processes are: a node and its keeper for each end.
start("one") -> [{node(), none}];
start("two") ->
    {ok, Sections} = escript:extract(escript:script_name(), [compile_source]),
    {source, Code} = lists:keyfind(source, 1, Sections),
    {ok, Random} = file:open("/dev/urandom", [read, raw, binary]),
    {ok, Secret} = file:read(Random, 16),
    Cookie = binary_to_list(binary:encode_hex(Secret)),
    start_node('driver@localhost', Cookie),
    [{A, _}, {B, PortOfB}] = Ends = [start_end(Name, Code, Cookie) || Name <- ['a@localhost', 'b@localhost']],
    [know(Node, Port) || {Node, Port} <- Ends],
    ok = erpc:call(connected(A), ?MODULE, know, [B, PortOfB]),
    [{Node, spawn(connected(Node), ?MODULE, keeper, [Other])} || {Node, Other} <- [{A, B}, {B, A}]].

start_end(Name, Code, Cookie) ->
    Flags = "+S 1:1 +A 1 -kernel logger_level none -connect_all false -kernel prevent_overlapping_partitions false "
        "-kernel inet_dist_use_interface {127,0,0,1} -kernel dist_auto_connect never -epmd_module differential "
        "-setcookie none",
    {ok, Peer, _} = peer:start(#{connection => {{127, 0, 0, 1}, 0}, args => string:split(Flags, " ", all)}),
    {module, _} = peer:call(Peer, code, load_binary, [?MODULE, "differential", Code]),
    {Name, peer:call(Peer, ?MODULE, start_node, [Name, Cookie])}.

%% Makes this runtime a node, and says at which port.
start_node(Name, Cookie) ->
    {ok, _} = net_kernel:start(Name, #{name_domain => shortnames, hidden => true}),
    erlang:set_cookie(list_to_atom(Cookie)),
    persistent_term:get({?MODULE, port}).

know(Node, Port) -> persistent_term:put({?MODULE, Node}, Port).

connected(Node) ->
    case net_kernel:connect_node(Node) of
        true -> Node;
        %% The other one has not noticed yet that it is cut.
        false -> erlang:yield(), connected(Node)
    end.

%% What net_kernel asks in place of epmd.
start_link() -> ignore.
listen_port_please(_, _) -> {ok, 0}.
register_node(Name, Port) -> register_node(Name, Port, inet).
register_node(_, Port, _) -> persistent_term:put({?MODULE, port}, Port), {ok, 1}.
address_please(Name, Host, _) ->
    {ok, {127, 0, 0, 1}, persistent_term:get({?MODULE, list_to_atom(Name ++ "@" ++ Host)}), 6}.

%% One in each node, for what the driver cannot do from outside.
keeper(Other) ->
    ok = net_kernel:monitor_nodes(true, #{node_type => all}),
    keep(Other, up).

keep(Other, State) ->
    receive
        {connect, Driver} -> Driver ! {connected, connected(Other)}, keep(Other, up);
        {cut, _} -> erlang:disconnect_node(Other), keep(Other, State);
        {await_cut, Driver} when State =:= down -> Driver ! {cut, node()}, keep(Other, State);
        {nodedown, Other, _} -> keep(Other, down);
        {nodeup, Other, _} -> keep(Other, up);
        {flush, Driver, Keeper} -> Keeper ! {ping, self(), Driver}, keep(Other, State);
        {ping, Keeper, Driver} -> Keeper ! {pong, Driver}, keep(Other, State);
        {pong, Driver} -> Driver ! flushed, keep(Other, State)
    end.

%% ------------------------------------------------------------------------------------------------ the driver

%% slots: number => pid, of all that were ever spawned; numbers: the other way round; alive: number => monitor.
%% acting: those who have been told to do something and have not said that it is done.
-record(world, {
    ends, cut = false, slots = #{}, numbers = #{}, alive = #{}, acting = [], born = #{}, step = 0, round = 0, out = []
}).

run(<<_Count, Steps/binary>>, Ends) ->
    connect(Ends),
    #world{alive = Alive, slots = Slots, out = Out} = steps(Steps, #world{ends = Ends}),
    [exit(maps:get(Slot, Slots), kill) || Slot <- maps:keys(Alive)],
    [receive {'DOWN', Ref, process, _, _} -> ok end || Ref <- maps:values(Alive)],
    lists:reverse(Out).

connect([_]) -> ok;
connect([{_, KeeperOfA}, {B, KeeperOfB}]) ->
    KeeperOfA ! {connect, self()},
    receive {connected, B} -> ok end,
    flush(KeeperOfA, KeeperOfB).

%% What each end has sent to the other has arrived.
flush(#world{ends = [{_, KeeperOfA}, {_, KeeperOfB}], cut = false}) -> flush(KeeperOfA, KeeperOfB);
flush(_) -> ok.

flush(KeeperOfA, KeeperOfB) ->
    KeeperOfA ! {flush, self(), KeeperOfB},
    receive flushed -> ok end.

steps(<<>>, World) -> World;
steps(<<Actor, Meanwhile:1, Count:7, Rest/binary>>, World) ->
    Len = Count * 4,
    <<Ops:Len/binary, More/binary>> = Rest,
    After = step(Actor, Meanwhile, [{C, X, Y, Z} || <<C, X, Y, Z>> <= Ops], World),
    steps(More, After#world{step = After#world.step + 1}).

step(?OUTSIDE, Meanwhile, Ops, World) ->
    {Results, After} = outside(Ops, World, []),
    rest_unless(Meanwhile, results(?OUTSIDE, 0, Results, After));
step(Actor, Meanwhile, Ops, #world{alive = Alive, slots = Slots, acting = Acting} = World) when
    is_map_key(Actor, Alive)
->
    maps:get(Actor, Slots) ! {'$do', Ops, Slots},
    rest_unless(Meanwhile, World#world{acting = Acting ++ [Actor]});
step(_, _, _, #world{acting = []} = World) -> World;
step(_, Meanwhile, _, World) -> rest_unless(Meanwhile, World).

rest_unless(1, World) -> World;
rest_unless(0, World) -> rest(2, all_done(World)).

all_done(#world{acting = []} = World) -> World;
all_done(#world{acting = [Actor | More], alive = Alive} = World) when is_map_key(Actor, Alive) ->
    Ref = maps:get(Actor, Alive),
    receive
        {'$done', Actor, Results, Known} ->
            all_done(learn(Known, results(Actor, 0, Results, World#world{acting = More})));
        {'DOWN', Ref, process, _, Reason} ->
            all_done(ended(Actor, Reason, World#world{acting = More}))
    end;
all_done(#world{acting = [_ | More]} = World) -> all_done(World#world{acting = More}).

results(_, _, [], World) -> World;
results(Actor, Index, [Result | Rest], World) ->
    results(Actor, Index + 1, Rest, see(Actor, <<1, Index, Result, 0>>, World)).

see(Actor, What, #world{step = Step, out = Out} = World) -> World#world{out = [<<Step, Actor, What/binary>> | Out]}.

%% Watches those who were not known before.
learn(Known, #world{slots = Slots} = World) when map_size(Known) =:= map_size(Slots) -> World;
learn(Known, #world{slots = Slots} = World) ->
    maps:fold(fun(Slot, Pid, #world{numbers = Numbers, alive = Alive, born = Born} = W) ->
        W#world{
            slots = Known,
            numbers = Numbers#{Pid => Slot},
            alive = Alive#{Slot => monitor(process, Pid)},
            born = Born#{Slot => W#world.step}
        }
    end, World, maps:without(maps:keys(Slots), Known)).

%% Asks everybody, again and again, until no one has anything to say: two quiet rounds, or one after a loud one.
rest(Least, #world{round = Round, alive = Alive, slots = Slots} = World) ->
    flush(World),
    [maps:get(Slot, Slots) ! {'$fence', Round} || Slot <- maps:keys(Alive)],
    case answers(Alive, false, World#world{round = Round + 1}) of
        {false, After} when Least =< 1 -> lose(owners_gone(After), After);
        {_, After} -> rest(Least - 1, After)
    end.

%% The connection is lost with an owner, behind all that its end has led to.
lose([], World) -> World;
lose([Owner | _], World) -> rest(2, cut(Owner, World)).

owners_gone(#world{ends = [_, _], cut = false, slots = Slots, alive = Alive}) ->
    [Owner || Owner <- [0, 1], is_map_key(Owner, Slots), not is_map_key(Owner, Alive)];
owners_gone(_) -> [].

cut(End, #world{ends = Ends} = World) ->
    {_, First} = lists:nth(1 + End, Ends),
    First ! {cut, self()},
    [begin Keeper ! {await_cut, self()}, receive {cut, Node} -> ok end end || {Node, Keeper} <- Ends],
    World#world{cut = true}.

answers(Awaited, Loud, World) when map_size(Awaited) =:= 0 -> {Loud, World};
answers(Awaited, Loud, #world{numbers = Numbers, slots = Slots} = World) ->
    receive
        {'$quiet', Slot, []} -> answers(maps:remove(Slot, Awaited), Loud, World);
        {'$quiet', Slot, Events} ->
            Node = node(maps:get(Slot, Slots)),
            Said = lists:foldl(fun(Event, W) -> see(Slot, event(Event, Node, Numbers), W) end, World, Events),
            answers(maps:remove(Slot, Awaited), true, Said);
        {'DOWN', _, process, Pid, Reason} ->
            Slot = maps:get(Pid, Numbers),
            answers(maps:remove(Slot, Awaited), true, ended(Slot, Reason, World))
    end.

ended(Slot, Reason, #world{alive = Alive, born = Born, step = Step} = World) ->
    Known = case Born of #{Slot := Step} -> 9; #{} -> reason(Reason) end,
    see(Slot, <<5, Known, 0, 0>>, World#world{alive = maps:remove(Slot, Alive)}).

event({message, From, Number}, _, _) -> <<2, From, Number, 0>>;
event({exit, Pid, Reason}, Node, Numbers) ->
    Slot = maps:get(Pid, Numbers, ?OUTSIDE),
    Known = case hidden(Slot, Pid, Node) of true -> ?OUTSIDE; false -> Slot end,
    <<3, Known, (reason(Reason)), 0>>;
event({down, Monitor, {_Name, _Node}, Reason}, _, _) -> <<4, Monitor, ?OUTSIDE, (reason(Reason))>>;
event({down, Monitor, Pid, Reason}, _, Numbers) ->
    <<4, Monitor, (maps:get(Pid, Numbers, ?OUTSIDE)), (reason(Reason))>>.

%% Whether this process is not known at the other end.
hidden(Slot, Pid, Node) -> Slot rem 5 =:= 2 andalso node(Pid) =/= Node.

outside([], World, Results) -> {lists:reverse(Results), World};
outside([{1, Child, _, Life} | Ops], #world{ends = Ends, slots = Slots} = World, Results) ->
    {Node, _} = lists:nth(1 + Child rem length(Ends), Ends),
    Pid = spawn(Node, ?MODULE, live, [Life, Child, self()]),
    outside(Ops, learn(Slots#{Child => Pid}, World), [0 | Results]);
outside([{9, To, Number, _} | Ops], #world{slots = Slots} = World, Results) ->
    outside(Ops, World, [with(To, Slots, fun(Pid) -> Pid ! {message, ?OUTSIDE, Number}, 0 end) | Results]);
outside([{14, To, Reason, _} | Ops], #world{slots = Slots} = World, Results) ->
    outside(Ops, World, [with(To, Slots, fun(Pid) -> exit(Pid, term(Reason)), 0 end) | Results]);
outside([{20, _, _, _} | Ops], #world{cut = true} = World, Results) ->
    outside(Ops, World, [0 | Results]);
outside([{20, End, _, _} | Ops], World, Results) ->
    outside(Ops, cut(End, World), [0 | Results]).

%% ------------------------------------------------------------------------------------------------ an actor

-record(actor, {slot, driver, held = false, slots = #{}, refs = #{}, monitors = #{}, seen = []}).

live(0, Slot, Driver) -> loop(#actor{slot = Slot, driver = Driver});
live(1, _, _) -> ok;
live(2, _, _) -> error(oops);
live(Life, _, _) -> exit(term(Life - 3)).

loop(#actor{held = true} = Actor) ->
    receive
        {'$do', Ops, Slots} -> do(Ops, [], Actor#actor{slots = Slots});
        {'$fence', _} -> fence(Actor)
    end;
loop(#actor{held = false, refs = Refs, seen = Seen} = Actor) ->
    receive
        {'$do', Ops, Slots} -> do(Ops, [], Actor#actor{slots = Slots});
        {'$fence', _} -> fence(Actor);
        {message, _, _} = Message -> loop(Actor#actor{seen = [Message | Seen]});
        {'EXIT', Pid, Reason} -> loop(Actor#actor{seen = [{exit, Pid, Reason} | Seen]});
        {'DOWN', Ref, process, Object, Reason} ->
            loop(Actor#actor{seen = [{down, maps:get(Ref, Refs), Object, Reason} | Seen]})
    end.

fence(#actor{slot = Slot, driver = Driver, seen = Seen} = Actor) ->
    Driver ! {'$quiet', Slot, lists:reverse(Seen)},
    loop(Actor#actor{seen = []}).

do([], Results, Actor) ->
    done(Results, Actor),
    loop(Actor);
do([Op | Ops], Results, #actor{slot = Slot} = Actor) ->
    case Op of
        {15, Reason, _, _} -> done([0 | Results], Actor), exit(term(Reason));
        {16, _, _, _} -> done([0 | Results], Actor), ok;
        {17, _, _, _} -> done([0 | Results], Actor), error(oops);
        {14, Slot, Reason, _} -> done([0 | Results], Actor), exit(self(), term(Reason)), loop(Actor);
        _ ->
            {Result, After} = op(Op, Actor),
            do(Ops, [Result | Results], After)
    end.

done(Results, #actor{slot = Slot, driver = Driver, slots = Slots}) ->
    Driver ! {'$done', Slot, lists:reverse(Results), Slots}.

op({1, Child, How, Life}, #actor{driver = Driver, slots = Slots} = Actor) ->
    Body = fun() -> live(Life, Child, Driver) end,
    case How of
        0 -> {0, Actor#actor{slots = Slots#{Child => spawn(Body)}}};
        1 -> {0, Actor#actor{slots = Slots#{Child => spawn_link(Body)}}};
        2 ->
            {Pid, Ref} = spawn_monitor(Body),
            {0, monitored(Child + 128, Ref, Actor#actor{slots = Slots#{Child => Pid}})}
    end;
op({2, To, _, _}, Actor) ->
    {to(To, Actor, fun(Pid) -> try link(Pid), 1 catch error:noproc -> 3 end end), Actor};
op({3, From, _, _}, Actor) ->
    {to(From, Actor, fun(Pid) -> unlink(Pid), 0 end), Actor};
op({4, Of, Monitor, _}, Actor) ->
    case to(Of, Actor, fun(Pid) -> monitor(process, Pid) end) of
        4 -> {4, Actor};
        Ref -> {0, monitored(Monitor, Ref, Actor)}
    end;
op({5, Name, Monitor, _}, Actor) ->
    case whereis(name(Name)) of
        undefined -> {3, Actor};
        _ -> {1, monitored(Monitor, monitor(process, name(Name)), Actor)}
    end;
op({6, Monitor, _, _}, Actor) -> {demonitor_with(Monitor, [info], Actor), Actor};
op({7, Monitor, _, _}, Actor) -> {demonitor_with(Monitor, [flush, info], Actor), Actor};
op({8, Trap, _, _}, Actor) -> {bool(process_flag(trap_exit, Trap =:= 1)), Actor};
op({9, To, Number, _}, #actor{slot = Slot} = Actor) ->
    {to(To, Actor, fun(Pid) -> Pid ! {message, Slot, Number}, 0 end), Actor};
op({10, Name, Number, _}, #actor{slot = Slot} = Actor) ->
    {try name(Name) ! {message, Slot, Number}, 1 catch error:badarg -> 3 end, Actor};
op({11, Name, Process, _}, Actor) ->
    {to(Process, Actor, fun(Pid) -> try register(name(Name), Pid), 1 catch error:badarg -> 3 end end), Actor};
op({12, Name, _, _}, Actor) ->
    {try unregister(name(Name)), 1 catch error:badarg -> 3 end, Actor};
op({13, Name, _, _}, #actor{slots = Slots} = Actor) ->
    case whereis(name(Name)) of
        undefined -> {3, Actor};
        Pid ->
            [Slot] = [Slot || {Slot, Other} <- maps:to_list(Slots), Other =:= Pid],
            {10 + Slot, Actor}
    end;
op({14, To, Reason, _}, Actor) ->
    {to(To, Actor, fun(Pid) -> exit(Pid, term(Reason)), 0 end), Actor};
op({18, _, _, _}, Actor) -> {0, Actor#actor{held = true}};
op({19, _, _, _}, Actor) -> {0, Actor#actor{held = false}}.

monitored(Monitor, Ref, #actor{refs = Refs, monitors = Monitors} = Actor) ->
    Actor#actor{refs = Refs#{Ref => Monitor}, monitors = Monitors#{Monitor => Ref}}.

demonitor_with(Monitor, Options, #actor{monitors = Monitors}) ->
    case Monitors of
        #{Monitor := Ref} -> bool(demonitor(Ref, Options));
        #{} -> 4
    end.

to(Slot, #actor{slots = Slots}, F) ->
    with(Slot, Slots, fun(Pid) -> case hidden(Slot, Pid, node()) of true -> 4; false -> F(Pid) end end).

with(Slot, Slots, F) ->
    case Slots of
        #{Slot := Pid} -> F(Pid);
        #{} -> 4
    end.

bool(true) -> 1;
bool(false) -> 2.

%% ------------------------------------------------------------------------------------------------ words

name(0) -> differential_0;
name(1) -> differential_1;
name(2) -> differential_2.

term(0) -> normal;
term(1) -> shutdown;
term(2) -> kill;
term(3) -> killed;
term(4) -> noproc;
term(5) -> noconnection;
term(7) -> boom;
term(8) -> {bang, [some, #{term => 1}]}.

reason(normal) -> 0;
reason(shutdown) -> 1;
reason(kill) -> 2;
reason(killed) -> 3;
reason(noproc) -> 4;
reason(noconnection) -> 5;
reason({oops, [_ | _]}) -> 6;
reason(boom) -> 7;
reason({bang, [some, #{term := 1}]}) -> 8.
