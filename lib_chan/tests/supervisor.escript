#!/usr/bin/env escript
%%! -kernel logger_level none
%% Runs programs of a supervisor, one term a line from standard input, and prints what happened in each, one line each:
%%
%%   {Strategy, Intensity, [Child], [Step]}.
%%   Child: {Restart, Shutdown}.
%%   Step: {ends, Id, Reason}, {start, Child} or {stop, Id}; children are numbered from 0 as they come.
%%
%% `sN` is a start of child N, `tN` a child that was told to shut down, `[…]` the children after a step (`N` alive, `-N`
%% not), `over` the end of the supervisor.
-mode(compile).

main(_) ->
    process_flag(trap_exit, true),
    loop().

loop() ->
    case io:read('') of
        eof -> ok;
        {ok, Program} ->
            io:format("~s~n", [run(Program)]),
            loop()
    end.

run({Strategy, Intensity, Children, Steps}) ->
    Self = self(),
    Specs = [spec(Self, Id, Child) || {Id, Child} <- lists:enumerate(0, Children)],
    Flags = #{strategy => Strategy, intensity => Intensity, period => 3600},
    {ok, Supervisor} = supervisor:start_link(supervisor_bridge_init(), {Flags, Specs}),
    steps(Supervisor, length(Children), Steps),
    case is_process_alive(Supervisor) of
        true -> gen_server:stop(Supervisor, normal, infinity);
        false -> ok
    end,
    receive {'EXIT', Supervisor, Reason} -> log(Self, io_lib:format("over:~p", [Reason])) end,
    lists:join(" ", logged()).

%% A module with a callback `init/1` that returns its argument in `{ok, _}`.
supervisor_bridge_init() ->
    case code:is_loaded(flags) of
        false ->
            Forms = [{attribute, 1, module, flags}, {attribute, 1, export, [{init, 1}]},
                     {function, 1, init, 1, [{clause, 1, [{var, 1, 'A'}], [],
                                              [{tuple, 1, [{atom, 1, ok}, {var, 1, 'A'}]}]}]}],
            {ok, flags, Binary} = compile:forms(Forms),
            {module, flags} = code:load_binary(flags, "flags", Binary);
        _ -> ok
    end,
    flags.

spec(Log, Id, {Restart, Shutdown}) ->
    Start = fun() -> log(Log, io_lib:format("s~b", [Id])), {ok, spawn_link(fun() -> child(Log, Id) end)} end,
    #{id => Id, start => {erlang, apply, [Start, []]}, restart => Restart, shutdown => Shutdown}.

child(Log, Id) ->
    process_flag(trap_exit, true),
    receive
        {ends, Reason} -> exit(Reason);
        {'EXIT', _, Reason} -> log(Log, io_lib:format("t~b", [Id])), exit(Reason)
    end.

steps(_, _, []) -> ok;
steps(Supervisor, Count, [Step | Steps]) ->
    Next = case is_process_alive(Supervisor) of
        true -> step(Supervisor, Count, Step);
        false -> Count
    end,
    timer:sleep(2),
    case is_process_alive(Supervisor) of
        true -> log(self(), ["[", lists:join(" ", [show(Id, Pid) || {Id, Pid} <- children(Supervisor)]), "]"]);
        false -> ok
    end,
    steps(Supervisor, Next, Steps).

step(Supervisor, Count, {ends, Id, Reason}) ->
    case lists:keyfind(Id, 1, children(Supervisor)) of
        {Id, Pid} when is_pid(Pid) ->
            Monitor = monitor(process, Pid),
            case Reason of
                kill -> exit(Pid, kill);
                _ -> Pid ! {ends, Reason}
            end,
            receive {'DOWN', Monitor, process, Pid, _} -> ok end;
        _ -> ok
    end,
    Count;
step(Supervisor, Count, {start, Child}) ->
    {ok, _} = supervisor:start_child(Supervisor, spec(self(), Count, Child)),
    Count + 1;
step(Supervisor, Count, {stop, Id}) ->
    supervisor:terminate_child(Supervisor, Id),
    supervisor:delete_child(Supervisor, Id),
    Count.

children(Supervisor) ->
    lists:sort([{Id, Pid} || {Id, Pid, _, _} <- supervisor:which_children(Supervisor)]).

show(Id, Pid) when is_pid(Pid) -> integer_to_list(Id);
show(Id, _) -> [$- | integer_to_list(Id)].

log(To, What) -> To ! {log, What}.

logged() ->
    receive {log, What} -> [What | logged()] after 0 -> [] end.
