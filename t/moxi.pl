#!/usr/bin/perl
# SPDX-License-Identifier: BSD-3-Clause
#
# moxi.pl - runs memcached's own tests through moxi, in several topologies, and on moxi: see usage() below.
#
# memcached's tests come from its source tree and are not part of moxi. They start `./timedrun 600 ./memcached-debug
# ARGS` in their current directory: each is run in a private directory in which these names are links to t/topology/,
# whose memcached-debug leads to `serve`, which starts Debian's memcached and the moxis before it, or to `alone`, which is
# a moxi. t/topology/table says which file runs in which topologies and why others do not, t/topology/table.alone which
# run on a moxi; a file of the source tree that is not in the tables is an error.
#
# A test has failed when its TAP says so, when it exits other than 0, when it skips everything, when it takes over
# TEST_SECONDS, when `serve` reports that a moxi crashed or would not end, or when a moxi under a sanitizer or valgrind
# reports something.
#
# Each test is run by a child of this process (run_job), which leaves its result in a file; the parent (run_all) keeps
# some of them going, prints a TAP line for each and a summary for each topology.
use strict;
use warnings;
use Cwd qw(abs_path getcwd);
use Fcntl qw(:flock);
use File::Basename qw(basename dirname);
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempdir);
use Getopt::Long qw(:config bundling no_ignore_case);
use IO::Select;
use List::Util qw(max);
use POSIX qw(:sys_wait_h);
use TAP::Parser;
use Text::ParseWords qw(shellwords);
use Time::HiRes qw(time sleep);

use constant {
    VERSION       => '1.6.18',                            # of memcached, whose tests the table is about
    RELEASE       => 'bookworm',                          # of Debian, which has it
    TEST_SECONDS  => 120 * ($ENV{TIMEOUT_SCALE} || 1),    # for one test
    GRACE_SECONDS => 30 * ($ENV{TIMEOUT_SCALE} || 1),     # for what a test started to end after it
    SHOWN_LINES   => 200,                                 # of each part of a failed test's output
    STALL_SECONDS => 0.5,                                 # without a turn of read_output: the machine stands still
    TRIES         => 3,                                   # runs of a test that the machine has spoiled
};

# What a moxi under a sanitizer or valgrind prints when it has found something.
my $REPORT = qr/(?:Address|Leak|Thread|Memory)Sanitizer|runtime error:|ERROR SUMMARY: [1-9]|Assertion/;

# What memcached's -h says of features that do not reach its clients through a moxi, or not yet.
my $UNAVAILABLE = qr/unix-socket|unix-mask|sasl|ssl|tls|drop_privileges|proxy_config/i;

my @SHAPES     = qw(simple chain fanout fanoutin);
my @TOPOLOGIES = (@SHAPES, 'alone', map { "$_/moxi" } @SHAPES);
my $here       = abs_path(dirname(__FILE__)) . '/topology';
my %option     = (jobs => 4, 'moxi-args' => '');
my %running;    # pid of a child of ours => its job
my $stopping;   # the signal that ends it all

sub usage
{
    my ($out, $status) = @_;

    print $out <<'END';
usage: t/moxi.pl [OPTION…] [TOPOLOGY…] [TEST…]

Runs memcached's own tests through moxi. Without a topology: in all of them. Without a TEST (cas, or cas.t): each file
that t/topology/table and t/topology/table.alone have for the topology.

  simple    client - moxi - memcached
  chain     client - moxi - moxi - moxi - memcached
  fanout    client - moxi - four memcacheds
  fanoutin  client - moxi - three moxis - memcached
  alone     client - moxi, which is the memcached

  simple/moxi, chain/moxi, fanout/moxi, fanoutin/moxi: with moxis in memcached's place; what runs in both of the two

  -j, --jobs=N        tests at a time (default 4)
  -a, --any           run what the table says cannot run, too
  -l, --list          print what would be run, and what would not and why
  -v, --verbose       print the output of tests that pass, too
      --moxi-args=S   add S to each moxi's arguments
  -h, --help

Environment: MOXI (./moxi; maybe with arguments), MEMCACHED (memcached), TIMEOUT_SCALE (1), and MEMCACHED_SRC, a source
tree of memcached 1.6.18; without that, Debian's source package is fetched once into ${XDG_CACHE_HOME:-~/.cache}/moxi,
with apt-get and the machine's mirror.
END
    exit($status);
}

sub stop_with
{
    my ($message) = @_;

    print STDERR "moxi.pl: $message\n";
    exit(2);
}

# ---- memcached's source tree

# The path of a program, or nothing.
sub find_program
{
    my ($name) = @_;

    return -x $name && !-d _ ? abs_path($name) : undef if $name =~ m{/};
    return (grep { -x $_ && !-d _ } map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/bin')[0];
}

# A command with its program as a path, quoted for shellwords, or nothing.
sub find_command
{
    my ($program, @arguments) = shellwords($_[0]);
    my @words = (find_program($program) // return, map { -e && m{/} ? abs_path($_) : $_ } @arguments);

    return join(' ', map { "\Q$_\E" } @words);
}

# Debian's archives that this machine uses, as stanzas of deb822, turned into sources of RELEASE.
sub source_stanzas
{
    my ($codename) = read_file('/etc/os-release') =~ /^VERSION_CODENAME=(\w+)/m;
    my @stanzas = map { one_line_stanzas($_) } '/etc/apt/sources.list', glob('/etc/apt/sources.list.d/*.list');
    my @kept;

    for my $file (glob('/etc/apt/sources.list.d/*.sources')) {
        push @stanzas, split(/\n\s*\n/, read_file($file) =~ s/^#.*\n//gmr);
    }
    for my $stanza (@stanzas) {
        my %field = $stanza =~ /^(\S+):[ \t]*((?:.*)(?:\n[ \t].*)*)/gm;
        next unless ($field{Components} // '') =~ /\bmain\b/ && ($field{Enabled} // '') !~ /^no\b/i;
        my @suites = grep { /^(?:\Q$codename\E|stable|oldstable)(?:[-\/]security)?$/ } split(' ', $field{Suites} // '');
        @field{qw(Types Components)} = qw(deb-src main);
        $field{Suites} = join(' ', map { s/^\w+/@{[RELEASE]}/r } @suites);
        push @kept, join('', map { "$_: $field{$_}\n" } sort keys %field) if @suites;
    }
    return @kept;
}

# The lines of a sources.list, as stanzas.
sub one_line_stanzas
{
    my ($file) = @_;
    my @stanzas;

    for (split(/\n/, read_file($file))) {
        next unless my ($options, $uri, $suite, $components) =
            /^\s*deb(?:-src)?\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)/;
        my ($key) = ($options // '') =~ /signed-by=(\S+)/i;
        my $stanza = "URIs: $uri\nSuites: $suite\nComponents: " . ($components =~ s/#.*//r) . "\n";
        $stanza .= "Signed-By: $key\n" if defined $key;
        $stanza .= "Trusted: yes\n" if ($options // '') =~ /trusted=yes/i;
        push @stanzas, $stanza;
    }
    return @stanzas;
}

sub read_file
{
    my ($file) = @_;

    open(my $fh, '<', $file) or return '';
    local $/;
    return <$fh> // '';
}

sub write_file
{
    my ($file, $text) = @_;

    open(my $fh, '>', $file) or stop_with("cannot write $file: $!");
    print $fh $text;
    close($fh) or stop_with("cannot write $file: $!");
}

# Runs apt-get in a directory, with sources, lists and cache of our own. Returns its output, or nothing when it failed.
sub apt_get
{
    my ($directory, @arguments) = @_;
    my @options = ("Dir::Etc::sourcelist=$directory/debian.sources", 'Dir::Etc::sourceparts=-',
        "Dir::State::lists=$directory/lists", "Dir::Cache=$directory/cache");

    push @options, 'APT::Sandbox::User=root' if $> == 0;
    my $pid = open(my $out, '-|') // stop_with("cannot fork: $!");
    if (!$pid) {
        chdir($directory);
        open(STDERR, '>&', \*STDOUT);
        exec('apt-get', '-q', (map { ('-o', $_) } @options), @arguments) or POSIX::_exit(127);
    }
    my $text = do { local $/; <$out> } // '';
    return (close($out), $text);
}

# Fetches Debian's source package into a directory, and moves its tree to its place at the end.
sub fetch_source
{
    my ($place) = @_;
    my $work = "$place.tmp";
    my @stanzas = source_stanzas();
    my $hint = 'set MEMCACHED_SRC to a source tree of memcached ' . VERSION;

    for (qw(apt-get dpkg-source)) {
        find_program($_) or stop_with("$_ (packages apt, dpkg-dev) is missing, to fetch memcached's tests; or $hint");
    }
    @stanzas or stop_with("found no Debian archive in /etc/apt to fetch memcached's tests from; $hint");
    remove_tree($work);
    make_path("$work/lists/partial", "$work/cache/archives/partial");
    write_file("$work/debian.sources", join("\n", @stanzas));
    my (undef, $updated) = apt_get($work, 'update');
    my ($ok, $fetched) = apt_get($work, 'source', 'memcached');
    if (!$ok || !-d "$work/memcached-" . VERSION . '/t') {
        remove_tree($work);
        print STDERR $updated, $fetched;
        stop_with("could not fetch memcached's source package with apt-get (its output is above); $hint");
    }
    rename("$work/memcached-" . VERSION, $place) or stop_with("cannot make $place: $!");
    remove_tree($work);
}

# The source tree: the user's, or the one in the cache, fetched when it is not there.
sub source_tree
{
    if (my $tree = $ENV{MEMCACHED_SRC}) {
        -e "$tree/t/lib/MemcachedTest.pm" or stop_with("MEMCACHED_SRC: there is no t/lib/MemcachedTest.pm in $tree");
        return abs_path($tree);
    }
    my $cache = ($ENV{XDG_CACHE_HOME} || ($ENV{HOME} || (getpwuid($>))[7]) . '/.cache') . '/moxi';
    my $place = "$cache/memcached-" . VERSION;

    eval { make_path($cache) };
    open(my $lock, '>', "$cache/lock") or stop_with("cannot write $cache/lock: $!");
    flock($lock, LOCK_EX) or stop_with("cannot lock $cache/lock: $!");
    fetch_source($place) unless -d $place;
    close($lock);
    return $place;
}

# ---- the table

# Reads a table: "FILE TOPOLOGIES REASON", TOPOLOGIES being "all", "none", or names with commas between, all of them of
# those that the table is about. Returns {file => {runs => {topology => 1}, why => reason}}.
sub read_table
{
    my ($file, $about, @present) = @_;
    my %known = map { $_ => 1 } @$about;
    my %table;

    for (split(/\n/, read_file($file))) {
        next if /^\s*(#|$)/;
        my ($name, $topologies, $why) = split(' ', $_, 3);
        my @names = $topologies eq 'all' ? @$about : $topologies eq 'none' ? () : split(/,/, $topologies);
        for my $unknown (grep { !$known{$_} } @names) {
            stop_with("$file: $name: no such topology: $unknown");
        }
        stop_with("$file: $name is there twice") if $table{$name};
        stop_with("$file: $name: no reason is given") if @names < @$about && !length($why // '');
        $table{$name} = { runs => { map { $_ => 1 } @names }, why => $why };
    }
    my @missing = grep { !$table{$_} } @present;
    stop_with("$file says nothing of: @missing") if @missing;
    my %present = map { $_ => 1 } @present;
    my @gone = grep { !$present{$_} } sort keys %table;
    stop_with("the source tree does not have what $file names: @gone") if @gone;
    return \%table;
}

# Both tables as one: {file => {topology => why it does not run there, or ''}}.
sub read_tables
{
    my @present = @_;
    my $through = read_table("$here/table", \@SHAPES, @present);
    my $alone   = read_table("$here/table.alone", ['alone'], @present);
    my %table;

    for my $file (@present) {
        my ($passed_on, $own) = ($through->{$file}, $alone->{$file});
        my $not_alone = $own->{runs}{alone} ? '' : $own->{why};
        $table{$file}{alone} = $not_alone;
        for my $shape (@SHAPES) {
            $table{$file}{$shape} = $passed_on->{runs}{$shape} ? '' : $passed_on->{why};
            $table{$file}{"$shape/moxi"} = $table{$file}{$shape} || $not_alone;
        }
    }
    return \%table;
}

# What to run: [{topology, file, path}].
sub plan_jobs
{
    my ($tree, $table, $topologies, $tests) = @_;
    my @jobs;

    for my $test (@$tests) {
        $table->{$test} or stop_with("there is no t/$test in $tree");
    }
    for my $topology (@$topologies) {
        for my $file (@$tests ? @$tests : sort keys %$table) {
            my $row = $table->{$file};
            if (!$row->{$topology} || $option{any}) {
                push @jobs, { topology => $topology, file => $file, path => "$tree/t/$file" };
            } elsif ($option{list}) {
                print "not $topology $file: $row->{$topology}\n";
            }
        }
    }
    my %planned = map { $_->{file} => 1 } @jobs;
    for my $test (grep { !$planned{$_} && !$option{list} } @$tests) {
        stop_with("$test does not run in $topologies->[0]: $table->{$test}{$topologies->[0]}");
    }
    return @jobs;
}

# The -h that the tests see: that of the memcached, or of the moxi, that is asked in the end, without what a client of a
# moxi before it cannot have. A command is quoted for the shell already.
sub tests_help
{
    my ($topology) = @_;
    my $command = $topology =~ m{/moxi|alone} ? $option{moxi} : "'$option{memcached}'";
    my @lines   = map { s/[^\n[:print:]]//gr } readpipe("$command -h");

    @lines && $? == 0 or stop_with("$command -h does not work");
    return join('', grep { $topology eq 'alone' || !/$UNAVAILABLE/ } @lines);
}

# ---- one test, in a child

# The processes that a file names, one a line, if they are still what they were.
sub pids_in
{
    my ($directory, $file) = @_;

    return grep { (readlink("/proc/$_/cwd") // '') eq $directory } split(' ', read_file("$directory/$file"));
}

# Starts a test in its directory. Returns its pid and a handle which ends when all that it started has ended.
sub start_test
{
    my ($job, $directory) = @_;

    pipe(my $read, my $write) or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    return ($pid, $read) if $pid;
    $SIG{$_} = 'DEFAULT' for qw(INT TERM);
    @ENV{qw(MOXI_T_TOPOLOGY MOXI_T_HERE MOXI_T_DIR MOXI_T_MOXI MOXI_T_MOXI_ARGS MOXI_T_MEMCACHED)} =
        ($job->{topology}, $here, $directory, @option{qw(moxi moxi-args memcached)});
    delete @ENV{qw(T_MEMD_USE_DAEMON SSL_TEST VALGRIND_TEST PERL5OPT)};
    chdir($directory);
    open(STDIN,  '<',  '/dev/null');
    open(STDOUT, '>&', $write);
    open(STDERR, '>',  "$directory/stderr");
    # Some sleep for half a second, which perl's own sleep takes for none.
    exec($^X, "-I$here", '-MNoSelfConnect', '-MTime::HiRes=sleep', $job->{path}) or POSIX::_exit(127);
}

# Reads a test's output until all that it started has ended. Returns false when that takes over some seconds, or over
# GRACE_SECONDS once the test itself has ended, or when we are to stop, or when the test has failed and may wait for
# ever because the machine stood still: the longest of such times is kept.
sub read_output
{
    my ($test, $seconds, $stoppable) = @_;
    my $until  = time + $seconds;
    my $turn   = time;
    my $select = IO::Select->new($test->{handle});

    while (time < $until && !($stoppable && $stopping)) {
        if ($select->can_read(0.1)) {
            my $got = sysread($test->{handle}, $test->{output}, 65536, length $test->{output});
            return 1 if defined $got && $got == 0;
        } elsif ($stoppable && $test->{stall} > STALL_SECONDS && $test->{output} =~ /^not ok/m) {
            return 0;
        }
        my $now = time;
        $test->{stall} = max($test->{stall}, $now - $turn);
        $turn = $now;
        if (!defined $test->{status} && waitpid($test->{pid}, WNOHANG) == $test->{pid}) {
            $test->{status} = $?;
            $until = time + GRACE_SECONDS;
        }
    }
    return 0;
}

# Waits for a test and for all that it started, and ends what does not end. Returns the test as a hash (output, status
# and stall, in seconds) and what went wrong.
sub watch_test
{
    my ($pid, $handle, $directory) = @_;
    my $test = { pid => $pid, handle => $handle, output => '', stall => 0 };
    my @wrong;

    if (!read_output($test, TEST_SECONDS, 1)) {
        push @wrong, $stopping ? 'was interrupted' : defined $test->{status} ? 'left processes' : 'did not end';
        kill 'TERM', defined $test->{status} ? () : $pid, pids_in($directory, 'serves');
        if (!read_output($test, GRACE_SECONDS, 0)) {
            kill 'KILL', defined $test->{status} ? () : $pid, map { pids_in($directory, $_) } qw(serves pids);
        }
    }
    if (!defined $test->{status}) {
        waitpid($pid, 0);
        $test->{status} = $?;
    }
    return ($test, @wrong);
}

# What the test's own output says. Returns how many of its tests passed, and what went wrong.
sub judge_output
{
    my ($output, $status) = @_;
    my $parser = TAP::Parser->new({ tap => $output . "\n" });
    my @wrong;

    $parser->run;
    push @wrong, 'skips everything: ' . $parser->skip_all if $parser->skip_all;
    push @wrong, 'failed tests: ' . join(' ', $parser->failed) if $parser->failed;
    push @wrong, 'bad plan' unless $parser->is_good_plan || $parser->skip_all;
    push @wrong, 'was killed by signal ' . WTERMSIG($status) if WIFSIGNALED($status);
    push @wrong, 'exited with ' . WEXITSTATUS($status) if WIFEXITED($status) && WEXITSTATUS($status) != 0;
    return (scalar($parser->passed), @wrong);
}

# The first lines of what a test printed, each with a sign before it.
sub quote
{
    my ($title, $text) = @_;
    my @lines = map { s/[^\t[:print:]]/?/gr } split(/\n/, $text);

    return '' unless @lines;
    splice(@lines, SHOWN_LINES, @lines, sprintf('… %d lines more', @lines - SHOWN_LINES)) if @lines > SHOWN_LINES;
    return join('', "# --- $title\n", map { "# $_\n" } @lines);
}

# Runs one test. Returns how many of its tests passed, how many things went wrong, what there is to say of it, and how
# the machine has spoiled it, if it has: a test chooses the port that its server is to listen on before that is
# started, and another process's connection may be given that port meanwhile; and a test that sets an item for two
# seconds, to get it at once, fails on a machine that stands still for one. What a moxi does wrong is not the machine's.
sub run_once
{
    my ($job, $directory) = @_;
    my $text = '';

    mkdir($directory) or die "mkdir $directory: $!";
    for (qw(memcached-debug timedrun)) {
        symlink("$here/$_", "$directory/$_") or die "symlink: $!";
    }
    write_file("$directory/help", $option{help}{ $job->{topology} });
    my ($test, @wrong) = watch_test(start_test($job, $directory), $directory);
    my $output = $test->{output};
    my ($passed, @judged) = judge_output($output, $test->{status});
    my $log = read_file("$directory/log");
    my $spoiled;
    my @failures = split(/\n/, read_file("$directory/failures"));
    push @failures, 'a moxi reports an error' if $log =~ $REPORT;
    push @wrong, @judged, @failures;
    $text .= quote('what went wrong', join("\n", @wrong)) if @wrong;
    $output =~ s/^ok .*\n//gm unless $option{verbose};
    if (@wrong || $option{verbose}) {
        $text .= quote('output', $output);
        $text .= quote('stderr', read_file("$directory/stderr"));
        $text .= quote('memcacheds and moxis', $log);
    }
    remove_tree($directory);
    $spoiled = 'its port was taken' if $log =~ /cannot listen on .*: Address already in use/;
    $spoiled = sprintf('the machine stood still for %.1f s', $test->{stall})
        if $test->{stall} > STALL_SECONDS && !@failures;
    return ($passed, scalar @wrong, $text, $spoiled);
}

# Runs one test, again when it failed and the machine had spoiled it, and leaves its result: the first line is the number
# of tests that passed and of things that went wrong.
sub run_job
{
    my ($job, $result) = @_;

    my $before = '';

    for my $try (1 .. TRIES) {
        my ($passed, $wrong, $text, $spoiled) = run_once($job, "$result.d");
        if ($wrong && $spoiled && !$stopping && $try < TRIES) {
            $before .= "# run again: $spoiled\n";
            next;
        }
        write_file($result, "$passed $wrong\n$before$text");
        return;
    }
}

# ---- all tests

sub start_job
{
    my ($job, $result) = @_;
    my $pid = fork() // stop_with("cannot fork: $!");

    if ($pid) {
        $running{$pid} = { %$job, result => $result, started => time };
        return;
    }
    %running = ();
    $SIG{$_} = sub { $stopping = shift } for qw(INT TERM);
    eval { run_job($job, $result) };
    print STDERR "moxi.pl: $job->{file}: $@" if $@;
    POSIX::_exit($@ ? 1 : 0);
}

# Takes the result of a job that has ended, prints it, and counts it in its topology.
sub end_job
{
    my ($job, $number, $total) = @_;
    my ($head, $text) = split(/\n/, read_file($job->{result}), 2);
    my ($passed, $wrong) = ($head // '') =~ /^(\d+) (\d+)$/;
    my $good = defined $wrong && $wrong == 0;

    return if $stopping;
    $total->{tests} += $passed // 0;
    $total->{files}++;
    push @{ $total->{failed} }, $job->{file} unless $good;
    printf("%s %d - %s %s (%d tests, %.1f s)\n%s", $good ? 'ok' : 'not ok', $number, $job->{topology}, $job->{file},
        $passed // 0, time - $job->{started}, $text // "# no result\n");
}

# Runs the jobs, some at a time. Returns {topology => {files, tests, failed}}.
sub run_all
{
    my @jobs    = @_;
    my $results = abs_path(tempdir('moxi-t-XXXXXX', TMPDIR => 1, CLEANUP => 1));
    my %total   = map { $_->{topology} => { files => 0, tests => 0, failed => [] } } @jobs;
    my ($started, $ended) = (0, 0);

    print '1..', scalar(@jobs), "\n";
    while (@jobs || %running) {
        while (@jobs && keys %running < $option{jobs} && !$stopping) {
            start_job(shift @jobs, "$results/" . $started++);
        }
        last unless %running;
        my $pid = waitpid(-1, 0);
        my $job = delete $running{$pid} or next;
        end_job($job, ++$ended, $total{ $job->{topology} });
    }
    return \%total;
}

sub parse_options
{
    my (@topologies, @tests);

    GetOptions(\%option, 'jobs|j=i', 'any|a', 'list|l', 'verbose|v', 'moxi-args=s', 'help|h') or usage(*STDERR, 2);
    usage(*STDOUT, 0) if $option{help};
    stop_with('--jobs must be 1 or more') if $option{jobs} < 1;
    for my $arg (@ARGV) {
        if (grep { $_ eq $arg } @TOPOLOGIES) {
            push @topologies, $arg;
        } else {
            push @tests, basename($arg, '.t') . '.t';
        }
    }
    return (@topologies ? \@topologies : \@TOPOLOGIES, \@tests);
}

sub main
{
    my ($topologies, $tests) = parse_options();
    my $moxi = $ENV{MOXI} || './moxi';
    my $memcached = $ENV{MEMCACHED} || 'memcached';
    my $failed = 0;

    local $| = 1;
    my $tree  = source_tree();
    my $table = read_tables(map { basename($_) } glob("$tree/t/*.t"));
    my @jobs  = plan_jobs($tree, $table, $topologies, $tests);
    if ($option{list}) {
        print map { "$_->{topology} $_->{file}\n" } @jobs;
        return 0;
    }
    @jobs or stop_with('nothing to run');
    $option{moxi}      = find_command($moxi)      // stop_with("$moxi cannot be run (build it, or set MOXI)");
    $option{memcached} = find_program($memcached) // stop_with("$memcached cannot be run (package memcached)");
    $option{help} = { map { $_ => tests_help($_) } @$topologies };
    $SIG{$_} = sub { $stopping = shift; kill 'TERM', keys %running } for qw(INT TERM);
    my $total = run_all(@jobs);
    for my $topology (grep { $total->{$_} } @TOPOLOGIES) {
        my ($files, $tests, $bad) = @{ $total->{$topology} }{qw(files tests failed)};
        printf("# %s: %d files, %d tests passed, %d files failed%s\n", $topology, $files, $tests, scalar(@$bad),
            @$bad ? ': ' . join(' ', sort @$bad) : '');
        $failed += @$bad;
    }
    print "# interrupted\n" if $stopping;
    return $failed || $stopping ? 1 : 0;
}

exit(main());
