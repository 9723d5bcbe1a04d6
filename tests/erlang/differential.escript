#!/usr/bin/env escript
%% -*- erlang -*-
%%! -noinput +S 1:1 +A 1 -kernel logger_level none
%% Runs programs of processes, links, monitors and exits, and says what each process saw: the other side of
%% tests/src/differential. It reads and writes packets of a length of 4 bytes on its standard input and output; a
%% packet holds any number of programs, its answer as many traces, each behind a length of its own.
%%
%% One scheduler: nothing here is about how Erlang's threads race, and all that is sent has arrived when the next
%% process runs.
-mode(compile).

-define(OUTSIDE, 255).

main(_) ->
    Port = open_port({fd, 0, 1}, [binary, eof, {packet, 4}]),
    serve(Port).

serve(Port) ->
    receive
        {Port, {data, Programs}} ->
            port_command(Port, batch(Programs)),
            serve(Port);
        {Port, eof} ->
            ok
    end.

batch(<<>>) -> [];
batch(<<Len:32, Program:Len/binary, Rest/binary>>) ->
    %% Each has a driver of its own, so nothing of one is left for the next.
    {Driver, Ref} = spawn_monitor(fun() -> exit({trace, run(Program)}) end),
    receive
        {'DOWN', Ref, process, Driver, {trace, Trace}} ->
            Bytes = iolist_to_binary(Trace),
            [<<(byte_size(Bytes)):32>>, Bytes | batch(Rest)]
    end.

%% ------------------------------------------------------------------------------------------------ the driver

%% slots: number => pid, of all that were ever spawned; numbers: the other way round; alive: number => monitor.
-record(world, {slots = #{}, numbers = #{}, alive = #{}, born = #{}, step = 0, round = 0, out = []}).

run(<<_Count, Steps/binary>>) ->
    #world{alive = Alive, slots = Slots, out = Out} = steps(Steps, #world{}),
    [exit(maps:get(Slot, Slots), kill) || Slot <- maps:keys(Alive)],
    [receive {'DOWN', Ref, process, _, _} -> ok end || Ref <- maps:values(Alive)],
    lists:reverse(Out).

steps(<<>>, World) -> World;
steps(<<Actor, Count, Rest/binary>>, World) ->
    Len = Count * 4,
    <<Ops:Len/binary, More/binary>> = Rest,
    After = step(Actor, [{C, X, Y, Z} || <<C, X, Y, Z>> <= Ops], World),
    steps(More, After#world{step = After#world.step + 1}).

step(?OUTSIDE, Ops, World) ->
    {Results, Slots} = outside(Ops, World#world.slots, []),
    rest(2, learn(Slots, results(?OUTSIDE, 0, Results, World)));
step(Actor, Ops, #world{alive = Alive, slots = Slots} = World) when is_map_key(Actor, Alive) ->
    Pid = maps:get(Actor, Slots),
    Pid ! {'$do', Ops, Slots},
    receive
        {'$done', Actor, Results, Known} -> rest(2, learn(Known, results(Actor, 0, Results, World)))
    end;
step(_, _, World) -> World.

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
    [maps:get(Slot, Slots) ! {'$fence', Round} || Slot <- maps:keys(Alive)],
    case answers(Alive, false, World#world{round = Round + 1}) of
        {false, After} when Least =< 1 -> After;
        {_, After} -> rest(Least - 1, After)
    end.

answers(Awaited, Loud, World) when map_size(Awaited) =:= 0 -> {Loud, World};
answers(Awaited, Loud, #world{numbers = Numbers} = World) ->
    receive
        {'$quiet', Slot, []} -> answers(maps:remove(Slot, Awaited), Loud, World);
        {'$quiet', Slot, Events} ->
            Said = lists:foldl(fun(Event, W) -> see(Slot, event(Event, Numbers), W) end, World, Events),
            answers(maps:remove(Slot, Awaited), true, Said);
        {'DOWN', _, process, Pid, Reason} ->
            Slot = maps:get(Pid, Numbers),
            answers(maps:remove(Slot, Awaited), true, ended(Slot, Reason, World))
    end.

ended(Slot, Reason, #world{alive = Alive, born = Born, step = Step} = World) ->
    Known = case Born of #{Slot := Step} -> 9; #{} -> reason(Reason) end,
    see(Slot, <<5, Known, 0, 0>>, World#world{alive = maps:remove(Slot, Alive)}).

event({message, From, Number}, _) -> <<2, From, Number, 0>>;
event({exit, Pid, Reason}, Numbers) -> <<3, (maps:get(Pid, Numbers, ?OUTSIDE)), (reason(Reason)), 0>>;
event({down, Monitor, {_Name, _Node}, Reason}, _) -> <<4, Monitor, ?OUTSIDE, (reason(Reason))>>;
event({down, Monitor, Pid, Reason}, Numbers) ->
    <<4, Monitor, (maps:get(Pid, Numbers, ?OUTSIDE)), (reason(Reason))>>.

outside([], Slots, Results) -> {lists:reverse(Results), Slots};
outside([{1, Child, _, Life} | Ops], Slots, Results) ->
    Driver = self(),
    outside(Ops, Slots#{Child => spawn(fun() -> live(Life, Child, Driver) end)}, [0 | Results]);
outside([{9, To, Number, _} | Ops], Slots, Results) ->
    outside(Ops, Slots, [with(To, Slots, fun(Pid) -> Pid ! {message, ?OUTSIDE, Number}, 0 end) | Results]);
outside([{14, To, Reason, _} | Ops], Slots, Results) ->
    outside(Ops, Slots, [with(To, Slots, fun(Pid) -> exit(Pid, term(Reason)), 0 end) | Results]).

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
op({4, Of, Monitor, _}, #actor{slots = Slots} = Actor) ->
    case Slots of
        #{Of := Pid} -> {0, monitored(Monitor, monitor(process, Pid), Actor)};
        #{} -> {4, Actor}
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

to(Slot, #actor{slots = Slots}, F) -> with(Slot, Slots, F).

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
