# Starts $ENVOY with envoy.json and ends once it serves; `stop` ends it. For a script of `watched`.
mkfifo said
"$ENVOY" -c envoy.json --disable-hot-restart --concurrency 1 --admin-address-path admin \
    --file-flush-interval-msec 10 --log-level info >said 2>&1 &
envoy=$!
stop() { kill "$envoy"; wait "$envoy"; }
exec 3<said
until [ "$serving" ]; do
    read -r line <&3 || { cat log; exit 1; }
    echo "$line" >>log
    case $line in *"starting workers"*) serving=yes ;; esac
done
cat <&3 >>log &
