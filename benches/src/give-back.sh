# Waits until the writer of its stdin is done or gone, then undoes what that did.
# $1 directory to remove; with hugepages also $2 the kernel's pool, $3 pages that it had, $4 pages added.
# Pages are taken off by the number added, not set to the old one: somebody else may have changed it meanwhile.
read -r _
rm -rf "$1"
[ "${4:-0}" -gt 0 ] || exit 0
now=$(($(cat "$2/nr_hugepages") - $(cat "$2/surplus_hugepages")))
[ "$now" -gt "$3" ] || exit 0
left=$((now - $4))
if [ "$left" -lt "$3" ]; then
    left=$3
fi
echo "$left" >"$2/nr_hugepages"
