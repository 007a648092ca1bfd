# Removes a network of the lab. Started before anything is made, so that it is there whatever becomes of the maker.
#
# Reads standard input until it ends: the maker is done (it wrote "done") or dead, by kill -9 too. Then kills every
# process in the namespaces whose names start with $1, deletes the namespaces, and removes the directory $2.
trap '' HUP INT QUIT TERM

orderly=
while read -r word; do orderly=$word; done

# An "ip netns add" of a maker that was killed may still be under way.
[ "$orderly" = "done" ] || sleep 0.2

rounds=0
while [ $rounds -lt 200 ]; do
    rounds=$((rounds + 1))
    found=
    for path in "/run/netns/$1"*; do
        [ -e "$path" ] || continue
        found=yes
        name=${path##*/}
        processes=$(ip netns pids "$name" 2>/dev/null)
        # One that SIGKILL does not end within 100 rounds must not keep the namespace's name for ever.
        if [ -n "$processes" ] && [ $rounds -lt 100 ]; then
            # shellcheck disable=SC2086 # a list of numbers
            kill -KILL $processes 2>/dev/null
        else
            ip netns delete "$name" 2>/dev/null
        fi
    done
    [ -n "$found" ] || break
    sleep 0.02
done
rm -rf -- "$2"
[ -z "$found" ]
