"""Signs and checks tokens with PyJWT, for the tests. Reads one JSON object a line: {"sign": claims, "headers", "algorithm", "key"} is
answered with the token, {"check": token, "algorithm", "key", "audience"} with its claims or the name of what is wrong with it."""

import json
import sys

import jwt

for line in sys.stdin:
    asked = json.loads(line)
    if "sign" in asked:
        token = jwt.encode(asked["sign"], asked["key"], algorithm=asked["algorithm"], headers=asked["headers"])
        print(json.dumps(token), flush=True)
    else:
        try:
            claims = jwt.decode(asked["check"], asked["key"], [asked["algorithm"]], audience=asked["audience"])
        except jwt.PyJWTError as error:
            claims = type(error).__name__
        print(json.dumps(claims), flush=True)
